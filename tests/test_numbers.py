"""Numbers that agree: what is shown of a run is true of all its steps, whichever of them were written."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from runs import Faults, Net, fit, loader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lightning_gradguard import GradGuard, GradStats
from lightning_gradguard.findings import StepReport
from lightning_gradguard.record.logbook import Logbook
from lightning_gradguard.record.report import Report
from lightning_gradguard.record.step_format import FOLDER
from lightning_gradguard.record.step_log import read_steps
from lightning_gradguard.show.html_report import report_data, write_html
from lightning_gradguard.tensorboard_plugin.summary import RunWriter

EXTREMES = (0.0, 5e-324, 1e-30, 1.0, 1e30, 1.7e308, math.inf, math.nan)


def trained(folder: Path, *callbacks: Any, **options: Any) -> Path:
    logger = pl.loggers.TensorBoardLogger(folder)
    fit(Net(nn.Linear(8, 3)), *callbacks, logger=logger, **options)
    return Path(logger.log_dir)


def test_the_largest_norm_is_that_of_all_steps(tmp_path: Path) -> None:
    guard = GradGuard(policy="monitor", detectors=[])
    run = trained(tmp_path, Faults({23: 40.0}), guard, log_every_n_steps=10)
    norms = {step.stats.step: step.stats.global_norm for step in read_steps(run / FOLDER)}
    assert max(norms, key=norms.__getitem__) == 23
    (found,) = report_data([run])
    assert found["curves"][""]["grad_norm"]["max"] == pytest.approx(norms[23], rel=1e-6)
    assert "grad_norm_max" not in found["curves"][""]


def test_the_steps_after_the_last_logging_step_count(tmp_path: Path) -> None:
    run = trained(tmp_path, Faults({38: 40.0}), GradGuard(policy="monitor", detectors=[]), log_every_n_steps=15)
    norms = [step.stats.global_norm for step in read_steps(run / FOLDER)]
    assert report_data([run])[0]["curves"][""]["grad_norm"]["max"] == pytest.approx(norms[38], rel=1e-6)


def test_a_norm_that_is_not_written_because_of_the_stride_counts(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as board:
        writer = RunWriter(board)
        for x in range(3000):
            norm = 50.0 if x == 2500 else 1.0 + 1e-3 * (x % 2)
            writer.step(StepReport(stats=GradStats.of({"a": norm}, step=x), largest_norm=3 * norm), x)
    assert report_data([tmp_path / "run"])[0]["curves"][""]["grad_norm"]["max"] == 150.0


@pytest.mark.parametrize("sample_every", [50, 7])
def test_samples_are_written_whatever_the_two_strides_are(sample_every: int, tmp_path: Path) -> None:
    run = trained(tmp_path, GradGuard(sample_every=sample_every), log_every_n_steps=50, data=loader(120))
    events = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload()
    for name in ("update_ratio", "weight_norm"):
        assert [event.step for event in events.Scalars(f"gradguard/{name}")] == [49, 99, 119]
    tags = events.Tags()["tensors"]
    assert {tag.split("/")[3] for tag in tags if tag.startswith("gradguard/tab/layers")} == {
        "grad_norm", "update_ratio", "param_norm",
    }  # fmt: skip


def test_a_sample_of_other_layers_is_not_written_with_these() -> None:
    told: list[StepReport] = []

    class Board:
        def step(self, report: StepReport, x: int) -> None:
            told.append(report)

        def close(self, report: Report, x: int) -> None: ...

    book = Logbook(None, boards=[Board()])  # type: ignore[list-item]
    sample = {"param_norm": np.array([2.0]), "update_ratio": np.array([0.5])}
    book.step(StepReport(stats=GradStats.of({"a": math.inf}, step=0, **sample)), 0)
    book.step(StepReport(stats=GradStats.of({"a": 3.0}, step=1)), 1)
    book.write()
    book.step(StepReport(stats=GradStats.of({"a": 7.0}, step=2, **sample)), 2)
    book.step(StepReport(stats=GradStats.of({"b": 4.0}, step=3)), 3)
    book.write()
    book.write()
    book.close(Report(4), 4)
    assert [report.stats.step for report in told] == [1, 3]
    assert [report.stats.global_update_ratio for report in told] == [0.5, pytest.approx(math.nan, nan_ok=True)]
    assert [report.largest_norm for report in told] == [3.0, 7.0]


def test_no_numpy_warning_reaches_a_user(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as board:
        writer = RunWriter(board)
        for x, values in enumerate(itertools.product(EXTREMES, repeat=2)):
            both = np.array(values)
            stats = GradStats.of(
                {"a": values[0], "b": values[1], "c": 1.0}, step=x, loss=values[0], lr=values[1],
                param_norm=np.array([*both, 1.0]), update_ratio=np.array([*both[::-1], 1.0]),
            )  # fmt: skip
            writer.step(StepReport(stats=stats, limit=values[1], largest_norm=values[0]), x)
        writer.close(Report(64), 64)
    assert report_data([tmp_path / "run"])
    write_html([tmp_path / "run"], tmp_path / "report.html")
