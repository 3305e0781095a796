from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from runs import Faults, Net, fit
from test_detector_laws import healthy_stream

from lightning_gradguard import GradGuard
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors import DETECTORS, Exploding
from lightning_gradguard.policy.presets import PROTECT
from lightning_gradguard.record.step_log import FOLDER, Recorder, read_steps
from lightning_gradguard.replay import replay, replay_steps


def same(a: GradStats, b: GradStats) -> bool:
    fields = ("step", "loss", "lr", "scaler_overflow", "multiple_optimizers", "restored", "buffers")
    arrays = ("grad_norm", "buffer_norm", "param_norm", "update_ratio")
    both = [(getattr(a, n), getattr(b, n)) for n in arrays]
    return all(repr(getattr(a, n)) == repr(getattr(b, n)) for n in fields) and all(
        (x is None and y is None) or np.array_equal(x, y, equal_nan=True) for x, y in both
    )


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    steps = healthy_stream(120)
    steps[7] = GradStats.of({f"net.{i}": math.nan for i in range(5)}, step=7, loss=None, scaler_overflow=True)
    recorder = Recorder(tmp_path)
    for stats in steps:
        recorder.add(stats)
        if stats.step % 30 == 0:
            recorder.flush()
    recorder.flush()
    again = read_steps(tmp_path)
    assert len(again) == len(steps)
    assert all(same(a, b) for a, b in zip(again, steps, strict=True))


def test_a_resumed_runs_rows_replace_the_old_ones_and_torn_rows_are_left_out(tmp_path: Path) -> None:
    for losses in ([1.0] * 10, [2.0] * 5):
        recorder = Recorder(tmp_path)
        for i, loss in enumerate(losses):
            recorder.add(GradStats.of({"a": 1.0}, step=i + (10 - len(losses)), loss=loss))
        recorder.flush()
    (newest,) = sorted(tmp_path.glob("*.f64"))[-1:]
    newest.write_bytes(newest.read_bytes()[:-3])
    assert [stats.loss for stats in read_steps(tmp_path)] == [1.0] * 5 + [2.0] * 4 + [1.0]


def test_no_record_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="was the run trained with GradGuard"):
        replay(tmp_path)


def test_replay_tells_the_live_story_again_and_others_with_other_settings(tmp_path: Path) -> None:
    import pytorch_lightning as pl

    guard = GradGuard()
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(Net(), Faults({30: math.nan, 31: math.inf}), guard, logger=logger, max_epochs=3)
    run = Path(logger.log_dir)
    told = [str(i) for i in guard.incidents if i.kind != "bad_batch"]  # batches are not recorded
    assert [str(i) for i in replay(run).incidents] == told
    strict = replay(run, [Exploding(factor=1.0001, warmup=1)])
    assert {i.kind for i in strict.incidents} == {"exploding"}
    assert list((run / FOLDER).glob("steps.*.f64"))


def test_replay_is_pure() -> None:
    stream = healthy_stream(200)
    stream[150] = GradStats.of({f"net.{i}": 1e9 for i in range(5)}, step=150, loss=1e9)
    first = replay_steps(stream, DETECTORS, PROTECT)
    assert repr(first) == repr(replay_steps(stream, DETECTORS, PROTECT))
    assert {i.kind for i in first} == {"loss_spike", "exploding"}
