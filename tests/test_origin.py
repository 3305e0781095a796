"""What is asked about an incident the next morning: when and where it was, and which samples."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from runs import Faults, Net, fit

from lightning_gradguard import GradGuard, __version__
from lightning_gradguard.findings import Finding, Incident, Origin
from lightning_gradguard.record.incident_log import INCIDENT_LOG, read_incidents
from lightning_gradguard.record.incident_tracker import IncidentTracker
from lightning_gradguard.replay import replay


def recorded(tmp_path: Path, *callbacks: Any, **options: Any) -> Path:
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(Net(), *callbacks, logger=logger, log_every_n_steps=5, **options)
    return Path(logger.log_dir)


def test_the_log_has_time_place_learning_rate_and_versions(tmp_path: Path) -> None:
    guard = GradGuard()
    run = recorded(tmp_path, Faults({50: math.nan, 51: math.nan}), guard, max_epochs=2)
    lines = [json.loads(line) for line in (run / INCIDENT_LOG).read_text().splitlines()]
    origin = dict(lines[0]["origin"])
    time = datetime.fromisoformat(origin.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert origin == {"epoch": 1, "batch": 10, "rank": None, "lr": 1e-2}
    assert all(line["origin"] == lines[0]["origin"] for line in lines)
    assert lines[0]["versions"] == {
        "gradguard": __version__, "torch": torch.__version__, "lightning": pl.__version__,
    }  # fmt: skip
    told = read_incidents(run / INCIDENT_LOG)
    assert [i.origin for i in told] == [i.origin for i in guard.report().incidents]


def test_a_replay_has_the_origins_of_the_run(tmp_path: Path) -> None:
    guard = GradGuard()
    run = recorded(tmp_path, Faults({20: math.nan, 30: math.nan}), guard)
    assert [i.to_dict() for i in replay(run).incidents] == [i.to_dict() for i in guard.report().incidents]
    other = replay(run, policy="monitor").incidents
    assert [i.origin.lr for i in other] == [1e-2] * len(other)


def test_the_origin_is_asked_once_in_a_step_with_a_new_incident_and_is_not_compared() -> None:
    asked: list[Origin] = []

    def origin() -> Origin:
        asked.append(Origin(str(len(asked))))
        return asked[-1]

    tracker = IncidentTracker(origin=origin)
    first, second = (Finding(kind, 1) for kind in "ab")
    began = tracker.update([(first, ()), (second, ())])
    tracker.update([(first, ("A",))])
    tracker.update([])
    assert [i.origin.time for i in began] == ["0", "0"]
    assert len(asked) == 1
    assert began[0] == replace(began[0], origin=Origin("another day"))
    assert "origin" not in repr(began[0])


def test_an_incident_names_each_sample_once() -> None:
    found = Incident.start(Finding("a", 1, (), 1.0, 2.0, samples=(4, 2))).extended(Finding("a", 2, samples=(2, 9)))
    assert found.samples == (4, 2, 9)
    assert found.extended(Finding("a", 3, samples=tuple(range(2000)))).samples[3:5] == (0, 1)
    assert Incident.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_samples_of_a_bad_batch_are_named(tmp_path: Path) -> None:
    guard = GradGuard()
    recorded(tmp_path, Faults({20: math.nan}), guard)
    assert {i.kind: i.samples for i in guard.incidents} == {"nonfinite": tuple(range(320, 336))}
