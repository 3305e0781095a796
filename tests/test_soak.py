"""A short form of `benchmarks/soak.py`: killed and resumed under faults, a run ends as one that was never killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

soak = pytest.importorskip("soak")
STEPS = 700


def test_a_killed_run_with_faults_ends_as_one_that_was_never_killed(tmp_path: Path) -> None:
    whole = soak.soak(STEPS, True, (), str(tmp_path / "whole"))
    killed = soak.soak(STEPS, True, (560,), str(tmp_path / "killed"))
    assert (whole.resumptions, killed.resumptions) == (0, 1)
    assert killed.end == whole.end
    assert killed.incidents == whole.incidents == {"resolved": 4}
    assert whole.end["outcome"] == "recovered"


def test_kills_come_in_order_and_leave_time_to_resume() -> None:
    kills = soak.deaths(100_000, 20)
    assert len(kills) == 20
    assert kills == sorted(kills) == soak.deaths(100_000, 20)
    assert kills[-1] < 100_000 - 1


def test_what_is_not_as_it_should_be() -> None:
    end = {"accuracy": 0.9, "loss": 0.1, "weights": "a", "outcome": "recovered"}
    memory = [(step, 400.0) for step in range(0, 40_000, 1000)]
    fine = soak.Soaked(end, {"resolved": 3}, memory, {}, 0, 1.0)
    clean = replace(fine, end={**end, "outcome": "healthy"})
    runs = {soak.NO_FAULTS: clean, soak.FAULTS: fine, soak.KILLED: fine}
    assert soak.failures(runs) == []
    grown = replace(fine, memory=[(step, 400 + step / 1000) for step, _ in memory])
    worse = replace(fine, end={**end, "loss": 0.11, "weights": "b"})
    found = soak.failures({**runs, soak.FAULTS: grown, soak.KILLED: worse})
    assert [what.partition(":")[0] for what in found] == [
        "faults", "faults and kills", "the killed run ended with other weights than the one never killed"
    ]  # fmt: skip
