from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Faults, Net, fit
from test_detector_laws import healthy_stream

from lightning_gradguard import GradGuard, Policy, zoo
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors import DETECTORS, Exploding
from lightning_gradguard.findings import StepOutcome, StepReport
from lightning_gradguard.policy.presets import PROTECT
from lightning_gradguard.record.step_format import FOLDER
from lightning_gradguard.record.step_log import RecordedStep, Recorder, read_steps
from lightning_gradguard.remedies import Rollback
from lightning_gradguard.replay import replay, replay_steps


def report_of(stats: GradStats) -> StepReport:
    return StepReport(stats=stats)


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
        recorder.add(report_of(stats))
        if stats.step % 30 == 0:
            recorder.flush()
    recorder.flush()
    again = [step.stats for step in read_steps(tmp_path)]
    assert len(again) == len(steps)
    assert all(same(a, b) for a, b in zip(again, steps, strict=True))


def test_a_resumed_runs_rows_replace_the_old_ones_and_torn_rows_are_left_out(tmp_path: Path) -> None:
    for losses in ([1.0] * 10, [2.0] * 5):
        recorder = Recorder(tmp_path)
        for i, loss in enumerate(losses):
            recorder.add(report_of(GradStats.of({"a": 1.0}, step=i + (10 - len(losses)), loss=loss)))
        recorder.flush()
    (newest,) = sorted(tmp_path.glob("*.f64"))[-1:]
    newest.write_bytes(newest.read_bytes()[:-3])
    assert [step.stats.loss for step in read_steps(tmp_path)] == [1.0] * 5 + [2.0] * 4 + [1.0]


def test_no_record_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="was the run trained with GradGuard"):
        replay(tmp_path)


def test_replay_tells_the_live_story_again_and_others_with_other_settings(tmp_path: Path) -> None:
    import pytorch_lightning as pl

    guard = GradGuard()
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(Net(), Faults({30: math.nan, 31: math.inf}), guard, logger=logger, max_epochs=3)
    run = Path(logger.log_dir)
    assert repr(replay(run).incidents) == repr(guard.report().incidents)
    assert replay(run).notes == ()
    strict = replay(run, [Exploding(factor=1.0001, warmup=1)])
    assert {i.kind for i in strict.incidents} == {"exploding"}
    assert list((run / FOLDER).glob("steps.*.f64"))


def test_replay_is_pure() -> None:
    stream = healthy_stream(200)
    stream[150] = GradStats.of({f"net.{i}": 1e9 for i in range(5)}, step=150, loss=1e9)
    steps = [RecordedStep(stats, StepOutcome()) for stats in stream]
    first, differing = replay_steps(steps, DETECTORS, PROTECT)
    assert repr(first) == repr(replay_steps(steps, DETECTORS, PROTECT)[0])
    assert {i.kind for i in first} == {"loss_spike", "exploding"}
    assert differing == 2


# ---------------------------------------------------------------- one step function for a run and its replay


@pytest.mark.parametrize("policy", ["monitor", "protect", "repair"])
@pytest.mark.parametrize("case", [case.name for case in zoo.list_cases()])
def test_a_replay_gives_the_incidents_of_the_run(case: str, policy: Any, tmp_path: Path) -> None:
    most = 150 if policy == "monitor" else 400
    steps = min(most, zoo.get_case(case).build(0).max_steps)
    result = zoo.run_case(case, policy=policy, accelerator="cpu", logdir=tmp_path, max_steps=steps)
    told = replay(tmp_path / case / "broken", policy=policy)
    assert [str(incident) for incident in told.incidents] == [str(incident) for incident in result.incidents]
    assert repr(told.incidents) == repr(result.incidents)
    assert told.notes == ()


def test_what_a_replay_cannot_know_is_said(tmp_path: Path) -> None:
    zoo.run_case("nan_sqrt", policy="protect", accelerator="cpu", logdir=tmp_path, max_steps=60)
    run = tmp_path / "nan_sqrt" / "broken"
    told = replay(run, policy=Policy({"nonfinite": [Rollback()]}))
    assert any(incident.actions == ("Rollback",) for incident in told.incidents)
    assert any("answered by other remedies than in the run" in note for note in told.notes)
    (path,) = (run / FOLDER).glob("steps.*.f64")
    head, _, body = path.read_bytes().partition(b"\n")
    width = len(body) // len(read_steps(run / FOLDER))
    path.write_bytes(head + b"\n" + body[-(width // 8 * 8) :])
    (run / FOLDER / "steps.0000.jsonl").write_text('{"step": 3, "resto')
    assert any("steps are missing" in note for note in replay(run).notes)


def test_recording_goes_on_in_new_files_after_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, full = Recorder(tmp_path), [True]
    opened = Path.open

    def broken(path: Path, *args: Any, **options: Any) -> Any:
        if full[0] and path.suffix == ".f64" and "ab+" in args:
            raise OSError(28, "No space left on device")
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", broken)
    recorder.add(report_of(GradStats.of({"a": 1.0}, step=0, loss=1.0)))
    with pytest.raises(OSError, match="No space"):
        recorder.flush()
    full[0] = False
    recorder.add(report_of(GradStats.of({"a": 1.0}, step=1, loss=1.0)))
    recorder.flush()
    assert [step.stats.step for step in read_steps(tmp_path)] == [0, 1]
