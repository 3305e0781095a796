"""What is written can be read back: after a torn line, with any text, from any file system, and of every guard."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import pytorch_lightning as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import Faults, Net, fit

from lightning_gradguard import GradGuard, GradStats
from lightning_gradguard.cli import main
from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.findings import Finding, Incident, StepReport
from lightning_gradguard.record.homes import home_of, recorded_guards
from lightning_gradguard.record.incident_log import INCIDENT_LOG, IncidentLog, append_incident, read_incidents
from lightning_gradguard.record.location import Location, location_of
from lightning_gradguard.record.step_format import FOLDER, recorded_optimizers
from lightning_gradguard.record.step_log import Recorder, read_steps
from lightning_gradguard.replay import replay
from lightning_gradguard.show.html_report import report_data
from lightning_gradguard.show.run_reader import list_tags


def incident(step: int, *layers: str) -> Incident:
    return Incident.start(Finding("nonfinite", step, layers, 1.0, 2.0), ("SkipStep",))


def report_of(step: int, **fields: Any) -> StepReport:
    return StepReport(stats=GradStats.of({"a": 1.0}, step=step, loss=1.0, **fields))


def steps_in(log: Path) -> list[int]:
    return [found.first_step for found in read_incidents(log)]


# ---------------------------------------------------------------- the log of incidents


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_every_text_is_read_back(text: str) -> None:
    log = Location("memory://texts") / INCIDENT_LOG
    log.write(b"")
    append_incident(log.url, incident(1, text, "\u2028\u2029\x85\r\n\ud800"))
    append_incident(log.url, incident(2, text))
    assert [found.layers for found in read_incidents(log.url)] == [(text, "\u2028\u2029\x85\r\n\ud800"), (text,)]


@pytest.mark.parametrize(
    "torn",
    [
        b'{"kind": "nonfi',
        b"\xff\xfe\x00",
        '{"kind": "größe'.encode()[:-2],
        b"[" * 100_000,
        b"1" * 5000,
        b'"' + b"\0" * 10,
        json.dumps({**incident(7).to_dict(), "layers": [7]}).encode(),
        json.dumps({**incident(7).to_dict(), "first_step": "7"}).encode(),
        json.dumps({**incident(7).to_dict(), "kind": None}).encode(),
        json.dumps({**incident(7).to_dict(), "value": 10**400}).encode(),
        json.dumps({**incident(7).to_dict(), "unheard_of": 0}).encode(),
    ],
)
def test_a_torn_or_foreign_line_costs_that_line_alone(torn: bytes, tmp_path: Path) -> None:
    log = tmp_path / INCIDENT_LOG
    append_incident(log, incident(1))
    log.write_bytes(log.read_bytes() + torn)
    append_incident(log, incident(2))
    append_incident(log, incident(3))
    assert steps_in(log) == [1, 2, 3]


def test_what_was_not_written_or_was_deleted_is_written_the_next_time(tmp_path: Path) -> None:
    log = IncidentLog(Location(tmp_path / "run" / INCIDENT_LOG))
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="exists"):
        log.add(incident(1))
    (tmp_path / "run").unlink()
    log.add(incident(2))
    assert steps_in(tmp_path / "run" / INCIDENT_LOG) == [1, 2]
    shutil.rmtree(tmp_path / "run")
    log.flush()
    assert steps_in(tmp_path / "run" / INCIDENT_LOG) == [1, 2]


# ---------------------------------------------------------------- the steps


def test_a_deleted_log_directory_comes_back(tmp_path: Path) -> None:
    class Delete(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                shutil.rmtree(Path(trainer.log_dir) / FOLDER)
                (Path(trainer.log_dir) / INCIDENT_LOG).unlink()

    logger, guard = pl.loggers.CSVLogger(tmp_path), GradGuard()
    fit(Net(), Faults({20: math.nan}), guard, Delete(), logger=logger, max_epochs=2, log_every_n_steps=5)
    run = Path(logger.log_dir)
    assert [step.stats.step for step in read_steps(run / FOLDER)] == list(range(40, 80))
    assert [str(found) for found in read_incidents(run / INCIDENT_LOG)] == list(map(str, guard.report().incidents))


def test_only_the_file_of_steps_is_deleted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for step in range(4):
        recorder.add(report_of(step))
        recorder.flush()
        if step == 1:
            (tmp_path / "steps.0000.f64").unlink()
    assert [step.stats.step for step in read_steps(tmp_path)] == [2, 3]


def test_a_foreign_row_costs_that_row_alone(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for step in range(5):
        recorder.add(report_of(step, param_norm=np.ones(1), update_ratio=np.ones(1)))
    recorder.flush()
    (path,) = tmp_path.glob("*.f64")
    head, _, body = path.read_bytes().partition(b"\n")
    rows = np.frombuffer(body).reshape(15, -1).copy()
    rows[3, :2] = math.nan, 1e300
    rows[8, 1] = 77.0  # the sampled update of step 2
    path.write_bytes(head + b"\n" + rows.tobytes()[:-8])  # and that of step 4
    found = [(step.stats.step, step.stats.update_ratio is not None) for step in read_steps(tmp_path)]
    assert found == [(0, True), (2, False), (3, True), (4, False)]


@pytest.mark.parametrize(
    "line", [b'{"step": 1, "batch_stats": {"size": 7}}', b'{"step": 1, "trial": []}', b"[1]", b"7"]
)
def test_a_foreign_line_beside_the_steps_costs_that_line_alone(line: bytes, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for step in range(3):
        recorder.add(report_of(step, batch_stats=BatchStats(np.array([float(step)]))))
    recorder.flush()
    path = tmp_path / "steps.0000.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], line, lines[2], b'{"step": 0, "stop_reason": 1}']))
    assert [step.stats.batch_stats is not None for step in read_steps(tmp_path)] == [True, False, True]


@pytest.mark.parametrize("head", [b'{"version": 3, "lay', b"\xff", b"7", b'{"version": 3, "layers": [1]}'])
def test_a_torn_header_costs_that_file_alone(head: bytes, tmp_path: Path) -> None:
    for step in range(2):
        recorder = Recorder(tmp_path)
        recorder.add(report_of(step))
        recorder.flush()
    path = tmp_path / "steps.0001.f64"
    path.write_bytes(head + b"\n" + path.read_bytes().partition(b"\n")[2])
    with pytest.warns(UserWarning, match="steps.0001.f64 has no readable header"):
        assert [step.stats.step for step in read_steps(tmp_path)] == [0]
    path.write_bytes(b'{"version": 1, "layers": []}\n')
    with pytest.raises(ValueError, match=r"steps.0001.f64 has format 1, this release reads 3"):
        read_steps(tmp_path)


def test_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (9999, 10000):
        recorder = Recorder(tmp_path)
        recorder.add(report_of(0, lr=float(number)))
        recorder.flush()
        (path,) = tmp_path.glob("steps.0*.f64") if number == 9999 else [tmp_path / "steps.10000.f64"]
        path.rename(tmp_path / f"steps.{number}.f64")
    assert [step.stats.lr for step in read_steps(tmp_path)] == [10000.0]


def test_a_header_without_rows_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "steps.0000.f64").write_bytes(b'{"version": 3}')
    with pytest.warns(UserWarning, match="no readable header"), pytest.raises(FileNotFoundError, match="No recorded"):
        replay(tmp_path)


# ---------------------------------------------------------------- object stores


@pytest.fixture
def store() -> Any:
    memory = fsspec.filesystem("memory")
    yield "memory://bucket/runs"
    memory.rm("/bucket", recursive=True)


def test_a_remote_run_is_recorded_and_read(store: str, capsys: Any) -> None:
    guard, logger = GradGuard(), pl.loggers.CSVLogger(store)
    fit(Net(), Faults({20: math.nan}), guard, logger=logger, log_every_n_steps=5)
    told = [str(found) for found in guard.report().incidents]
    assert [str(found) for found in read_incidents(f"{logger.log_dir}/{INCIDENT_LOG}")] == told
    assert [str(found) for found in replay(logger.log_dir).incidents] == told
    assert main(["replay", logger.log_dir, "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(told)
    (run,) = report_data([store])
    assert [found["text"] for found in run["incidents"]] == [found.message for found in guard.report().incidents]
    assert Location(logger.log_dir).parent.name == "lightning_logs"


def test_an_object_store_gets_one_file_for_many_steps(store: str) -> None:
    recorder = Recorder(f"{store}/gradguard")
    for step in range(2500):
        recorder.add(report_of(step))
        recorder.flush()
    assert Location(f"{store}/gradguard").names() == ["steps.0000.f64", "steps.0001.f64"]
    recorder.close()
    assert [step.stats.step for step in read_steps(f"{store}/gradguard")] == list(range(2500))
    assert recorded_optimizers(f"{store}/gradguard") == [""]


def test_a_file_system_that_cannot_be_opened_does_not_stop_a_run() -> None:
    with pytest.warns(UserWarning, match=r"GradGuard writes no files: nowhere://x cannot be opened \(ValueError"):
        assert location_of("nowhere://x") is None


# ---------------------------------------------------------------- several guards


def test_two_guards_share_no_file_and_all_tools_find_both(tmp_path: Path, capsys: Any) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext

    one, other = GradGuard(), GradGuard(policy="monitor", name="watch/only")
    loggers = [pl.loggers.TensorBoardLogger(tmp_path), pl.loggers.CSVLogger(tmp_path, "csv")]
    fit(Net(), Faults({20: math.nan}), one, other, logger=loggers, log_every_n_steps=5)
    run = Path(loggers[0].log_dir)
    homes = recorded_guards(run)
    assert list(homes) == ["", "watch/only"]
    for guard, home in zip((one, other), homes.values(), strict=True):
        told = [str(found) for found in guard.report().incidents]
        assert [str(found) for found in read_incidents(home / INCIDENT_LOG)] == told
    assert str(homes["watch/only"]) == str(home_of(run, "watch/only")) == str(run / "gradguard" / "watch%2Fonly")
    assert [found["run"] for found in report_data([run])] == ["version_0", "version_0/gradguard/watch%2Fonly"]
    assert main(["replay", str(run), "--format", "json"]) == 0
    assert {found["guard"] for found in json.loads(capsys.readouterr().out)} == {"", "watch/only"}
    store = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    tags = list_tags(MultiplexerDataProvider(store, str(tmp_path)), RequestContext(), "")
    assert {name.partition("version_0")[2] for name in tags} == {"", "/gradguard/watch%2Fonly"}
    header = (Path(loggers[1].log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"gradguard/grad_norm", "gradguard/watch/only/grad_norm"} <= set(header)
