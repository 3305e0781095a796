"""A short form of `benchmarks/soak.py`: killed and resumed under faults, a run ends as one that was never killed."""

from __future__ import annotations

from pathlib import Path

import pytest

soak = pytest.importorskip("soak")


def test_a_killed_run_with_faults_ends_as_one_that_was_never_killed(tmp_path: Path) -> None:
    whole = soak.soak(1000, True, (), str(tmp_path / "whole"))
    kills = soak.deaths(1000, 2)
    killed = soak.soak(1000, True, kills, str(tmp_path / "killed"))
    assert (whole.resumptions, killed.resumptions) == (0, 2)
    assert killed.end == whole.end
    assert killed.incidents == whole.incidents
    assert whole.end["outcome"] == "recovered"
    assert whole.incidents.keys() == {"resolved"}
