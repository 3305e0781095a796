"""A run without a logger writes where it is asked to, and the report and the tab read it."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import Faults, Net, files, fit, loader, same_state
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from test_resume import last_words, run
from werkzeug.test import Client

from lightning_gradguard import GradGuard
from lightning_gradguard.cli import main
from lightning_gradguard.loops import GuardedLoop
from lightning_gradguard.record.step_log import read_steps
from lightning_gradguard.tensorboard_plugin.plugin import GradGuardPlugin

LATER = "another directory for each run"


def guarded(folder: Path | str, **options: Any) -> GradGuard:
    guard = GradGuard(log_dir=folder)
    fit(Net(), Faults({20: math.nan}), guard, **options)
    return guard


def test_the_report_and_the_tab_show_a_run_without_a_logger(tmp_path: Path, capsys: Any) -> None:
    guard = guarded(tmp_path / "runs" / "1")
    assert main(["report", str(tmp_path / "runs" / "1"), "--format", "json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["headline"].startswith("40 steps, 1 incident from step 20: nonfinite.")
    root = str(tmp_path / "runs")
    provider = MultiplexerDataProvider(EventMultiplexer().AddRunsFromDirectory(root), root)
    plugin = GradGuardPlugin(TBContext(data_provider=provider, logdir=root))
    assert plugin.is_active()
    client = Client(TensorBoardWSGI([plugin], data_provider=provider))
    (figure,) = client.get("/data/plugin/gradguard/figures?run=1").json["figures"]
    assert figure["columns"] == 40
    assert len(guard.to_pandas()) == 40


def test_the_files_are_those_of_a_run_with_a_logger(tmp_path: Path) -> None:
    guarded(tmp_path / "own")
    fit(Net(), Faults({20: math.nan}), GradGuard(), logger=files(tmp_path / "logger"))
    names = [{p.relative_to(tmp_path / who) for p in (tmp_path / who).rglob("*")} for who in ("own", "logger")]
    assert names[0] == names[1] - {Path("hparams.yaml"), Path("metrics.csv")}


def test_it_goes_before_the_loggers_directory(tmp_path: Path) -> None:
    guarded(str(tmp_path / "own"), logger=files(tmp_path / "logger"))
    assert len(read_steps(tmp_path / "own" / "gradguard")) == 40
    assert not (tmp_path / "logger" / "gradguard").exists()
    assert (tmp_path / "logger" / "metrics.csv").exists()


def test_a_dry_run_leaves_no_file(tmp_path: Path) -> None:
    guarded(tmp_path / "own", fast_dev_run=True)
    assert not (tmp_path / "own").exists()


def test_a_healthy_run_is_the_same(tmp_path: Path) -> None:
    nets = []
    for callbacks in ([], [GradGuard(log_dir=tmp_path)]):
        pl.seed_everything(0, verbose=False)
        nets.append(Net())
        fit(nets[-1], *callbacks)
    assert same_state(*nets)


def test_a_directory_that_cannot_be_written_is_warned_about(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        guard = guarded(tmp_path / "file" / "run")
    told = [str(w.message) for w in caught if "could not write to" in str(w.message)]
    assert sorted(text.split(" (")[0] for text in told) == [
        "GradGuard could not write to incidents.jsonl", "GradGuard could not write to the record of steps",
    ]  # fmt: skip
    assert guard.last_report is not None
    assert guard.last_report.stats.step == 39


def test_a_killed_run_goes_on_in_its_directory(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", "--own")
    assert run(tmp_path / "killed", "--own", "--kill-at", "131").returncode < 0
    recorded = read_steps(tmp_path / "killed" / "gradguard")
    assert 50 <= len(recorded) <= 131  # every 50 steps the Trainer logs, and at incidents
    resumed = run(tmp_path / "killed", "--own", "--resume")
    assert (whole.returncode, resumed.returncode) == (0, 0), resumed.stderr[-2000:]
    assert LATER not in resumed.stderr
    assert last_words(tmp_path / "killed" / "incidents.jsonl") == last_words(tmp_path / "whole" / "incidents.jsonl")
    assert [s.stats.step for s in read_steps(tmp_path / "killed" / "gradguard")] == list(range(200))


def test_a_second_run_in_the_same_directory_is_warned_about(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", LATER)
        guarded(tmp_path)
    with pytest.warns(UserWarning, match=LATER):
        guarded(tmp_path)


def test_a_loop_of_plain_pytorch(tmp_path: Path) -> None:
    model = torch.nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with GuardedLoop(GradGuard(log_dir=tmp_path), model, optimizer) as loop:
        for x, y in loop.batches(loader()):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loop.backward(loss)
            loop.step()
    assert len(read_steps(tmp_path / "gradguard")) == 40


@pytest.mark.parametrize("value", ["", 7, True])
def test_a_directory_is_asked_for(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`GradGuard\(log_dir=...\)` must be a directory, got"):
        GradGuard(log_dir=value)
