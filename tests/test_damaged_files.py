"""Damaged files: whatever is in them, nothing raises, and other runs are not affected."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.base_plugin import TBContext
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import TypeAliasType
from werkzeug.test import Client

from lightning_gradguard import GradStats
from lightning_gradguard.cli import main
from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.findings import Action, Finding, Incident, Response, StepOutcome, StepReport
from lightning_gradguard.record.conforming import conforms
from lightning_gradguard.record.incident_log import INCIDENT_LOG, append_incident, read_incidents
from lightning_gradguard.record.report import Report
from lightning_gradguard.record.step_format import FOLDER
from lightning_gradguard.record.step_log import Recorder
from lightning_gradguard.show.html_report import report_data, write_html
from lightning_gradguard.tensorboard_plugin.plugin import GradGuardPlugin
from lightning_gradguard.tensorboard_plugin.summary import RunWriter

ROOT = "/data/plugin/gradguard"
SOUND = Incident.start(Finding("nonfinite", 3, ("net.0",), 2.0, 1.0, "loss"), ("SkipStep",))


def report_of(step: int) -> StepReport:
    fields: dict[str, Any] = {}
    if step % 2:
        fields = {"param_norm": np.ones(2), "update_ratio": np.ones(2), "trainable": np.ones(2, bool)}
    bad = step == 3
    outcome = StepOutcome(responses=(Response("nonfinite", ("SkipStep()",), (Action("SkipStep", "skipped"),)),))
    stats = GradStats.of(
        {"net.0": math.nan if bad else 3.0, "net.2": 4.0}, step=step, loss=1.0, lr=0.1, total_steps=8,
        batch_stats=BatchStats(np.array([1.0, math.nan]), (4, 5)) if bad else None, **fields,
    )  # fmt: skip
    return StepReport(stats=stats, outcome=outcome if bad else StepOutcome())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: Any) -> Path:
    """A small run with everything that a guard writes."""
    run = tmp_path_factory.mktemp("sound") / "run"
    recorder = Recorder(run / FOLDER)
    with SummaryWriter(run) as board:
        writer = RunWriter(board)
        writer._picture = lambda *_: None  # type: ignore[method-assign]  # pictures make the file large
        for step in range(6):
            writer.step(report_of(step), step)
            recorder.add(report_of(step))
        writer.incident(SOUND, 3)
        writer.close(Report(6, (SOUND,)), 6)
    recorder.flush()
    append_incident(run / INCIDENT_LOG, SOUND)
    append_incident(run / INCIDENT_LOG, SOUND.closed("resolved"))
    return run


# ---------------------------------------------------------------- mutations


def records_of(data: bytes) -> Iterator[bytes]:
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def framed(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked_crc32c(length)) + record + struct.pack("<I", masked_crc32c(record))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Flips, removes, inserts and cuts off bytes."""
    text = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 20])):
        at, what = rng.randrange(len(text) + 1), rng.randrange(8)
        if what < 3 and at < len(text):
            text[at] ^= 1 << rng.randrange(8)
        elif what < 5:
            del text[at : at + rng.randrange(1, 40)]
        elif what < 7:
            text[at:at] = rng.randbytes(rng.randrange(1, 20))
        else:
            del text[at:]
    return bytes(text)


VALUES = [b"null", b"7", b"-1", b"1e999", b"NaN", b'"x"', b"[]", b"{}", b"[[1]]", b"true", b"10000000000000000000000"]


def retyped(data: bytes, rng: random.Random) -> bytes:
    """Replaces values of JSON by others."""
    places = list(re.finditer(rb'(?<=: )("[^"]*"|-?[0-9.e+-]+|\[[^][]*\]|null|true|false)', data))
    for match in sorted(rng.sample(places, min(len(places), rng.choice([1, 2, 5]))), key=lambda m: -m.start()):
        data = data[: match.start()] + rng.choice(VALUES) + data[match.end() :]
    return data


def mutated_events(data: bytes, rng: random.Random) -> bytes:
    """Events with right checksums whose content is damaged."""
    records = list(records_of(data))
    for _ in range(rng.choice([1, 3, 10])):
        at = rng.randrange(len(records))
        try:
            records[at] = rng.choice([mutated, retyped_event])(records[at], rng)
        except Exception:  # the event is damaged already
            records[at] = rng.randbytes(10)
    return b"".join(map(framed, records))


def retyped_event(record: bytes, rng: random.Random) -> bytes:
    """An event whose texts have other types, or whose tensors other steps and shapes."""
    event = Event.FromString(record)
    for value in event.summary.value:
        if value.tensor.string_val:
            value.tensor.string_val[0] = retyped(value.tensor.string_val[0], rng)
        if value.metadata.plugin_data.content:
            value.metadata.plugin_data.content = retyped(value.metadata.plugin_data.content, rng)
        if value.tensor.tensor_content and rng.random() < 0.5:
            value.tensor.tensor_content = rng.randbytes(len(value.tensor.tensor_content))
    event.step = rng.choice([event.step, -1, 0, 2**62, -(2**63)])
    return bytes(event.SerializeToString())


def tab_of(folder: Path) -> Client:
    store = EventMultiplexer(tensor_size_guidance={"gradguard": 0}).AddRunsFromDirectory(str(folder))
    for run in store._accumulators.values():
        try:
            run.Reload()
        except Exception:  # TensorBoard's own loader; its server is written in Rust
            continue
    context = TBContext(data_provider=MultiplexerDataProvider(store, str(folder)), logdir=str(folder))
    return Client(TensorBoardWSGI([GradGuardPlugin(context)], data_provider=context.data_provider))


# ---------------------------------------------------------------- tests


@pytest.mark.parametrize("mutate", [mutated, mutated_events])
def test_damaged_event_files_in_report_and_tab(sound: Path, tmp_path: Path, mutate: Any, capsys: Any) -> None:
    rng, (source,) = random.Random(0), sound.glob("*tfevents*")
    for number in range(125):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / source.name).write_bytes(mutate(source.read_bytes(), rng))
    shutil.copytree(sound, tmp_path / "sound")
    runs = {run["run"]: run for run in report_data([tmp_path])}
    assert (len(runs), runs["sound"]["state"], runs["sound"]["problems"]) == (126, "degraded", [])
    some = [str(tmp_path / f"{number}") for number in range(0, 125, 25)]
    assert main(["report", *some, "--html", str(tmp_path / "report.html")]) in (0, 1)
    client = tab_of(tmp_path)
    listed = client.get(f"{ROOT}/runs")
    assert listed.status_code == 200
    described = {run["run"]: run for run in listed.json["runs"]}
    assert (described["sound"]["state"], described["sound"]["problems"]) == ("degraded", [])
    for name in list(described)[::12]:
        answer = client.get(f"{ROOT}/figures?run={name}&run=sound")
        assert answer.status_code == 200, (name, answer.json)
        assert answer.json["figures"][1]["state"] == "degraded"


@pytest.mark.parametrize("mutate", [mutated, retyped])
def test_damaged_incident_logs(sound: Path, tmp_path: Path, mutate: Any) -> None:
    rng, source = random.Random(1), (sound / INCIDENT_LOG).read_bytes()
    log = tmp_path / INCIDENT_LOG
    for _ in range(65):
        log.write_bytes(mutate(source, rng))
        append_incident(log, SOUND)
        assert repr(SOUND) in map(repr, read_incidents(log))  # NaN: see Python 3.13
        assert report_data([tmp_path])


@pytest.mark.filterwarnings("ignore:.*has no readable header", "ignore:GradGuard switches the detector")
@pytest.mark.parametrize("mutate", [mutated, retyped])
def test_damaged_recordings_of_steps(sound: Path, tmp_path: Path, mutate: Any, capsys: Any) -> None:
    rng, folder = random.Random(2), tmp_path / FOLDER
    shutil.copytree(sound / FOLDER, folder)
    for number in range(60):
        for source in (sound / FOLDER).iterdir():
            (folder / source.name).write_bytes(mutate(source.read_bytes(), rng))
            if number % 3 == 0:
                break
        assert main(["replay", str(tmp_path), "--format", "json"]) in (0, 2)


def test_a_damaged_event_file_is_skipped_with_a_word(sound: Path, tmp_path: Path) -> None:
    (source,) = sound.glob("*tfevents*")
    records = list(records_of(source.read_bytes()))
    first, second = tmp_path / f"{source.name}.1", tmp_path / f"{source.name}.2"
    first.write_bytes(b"".join(map(framed, [records[0], b"\xff" * 9, *records[1:4]])))
    second.write_bytes(source.read_bytes())
    (run,) = report_data([tmp_path])
    assert [problem.startswith(f"{first} is damaged (") for problem in run["problems"]] == [True]
    assert (run["state"], len(run["incidents"])) == ("degraded", 1)
    data = bytearray(source.read_bytes())
    data[-5] ^= 1
    second.write_bytes(data)
    assert len(report_data([tmp_path])[0]["problems"]) == 2
    second.write_bytes(source.read_bytes()[:-3])  # as after a crash
    assert len(report_data([tmp_path])[0]["problems"]) == 1


def test_a_malformed_run_is_told_from_the_others(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning_gradguard.show.run_view as run_view

    for name in ("bad", "good"):
        shutil.copytree(sound, tmp_path / name)
    layers = run_view.RunReader.layers
    monkeypatch.setattr(
        run_view.RunReader, "layers", lambda self, *args: 1 / 0 if self.run == "bad" else layers(self, *args)
    )
    answer = tab_of(tmp_path).get(f"{ROOT}/figures?run=bad&run=good").json["figures"]
    assert [figure["state"] for figure in answer] == ["malformed", "degraded"]
    assert answer[0]["problems"] == ["The run's data cannot be read (ZeroDivisionError: division by zero)."]
    assert [run["state"] for run in report_data([tmp_path])] == ["malformed", "degraded"]
    write_html([tmp_path], tmp_path / "report.html")
    assert "malformed" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_that_cannot_be_drawn_is_told_from_the_others(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning_gradguard.show.figures as figures

    for name in ("bad", "good"):
        shutil.copytree(sound, tmp_path / name)
    draw = figures.draw_figure
    full = {"bad": lambda view, layout: draw(view, layout) if view.heatmap is None else 1 / 0, "good": draw}
    monkeypatch.setattr(figures, "draw_figure", lambda view, layout: full[view.run](view, layout))
    answer = tab_of(tmp_path).get(f"{ROOT}/figures?run=bad&run=good").json["figures"]
    assert [figure["state"] for figure in answer] == ["malformed", "degraded"]
    assert json.dumps(answer[1]["figure"])


def test_a_type_may_have_a_name() -> None:
    dtype = TypeVar("dtype", bound=np.generic)
    array = TypeAliasType("array", np.ndarray[Any, np.dtype[dtype]], type_params=(dtype,))  # as in numpy 2.5
    for hint in (array, array[np.float64], array[np.float64] | None):
        assert conforms(np.ones(2), hint)
        assert not conforms([1.0], hint)
