"""A short form of `benchmarks/faults.py`: with GradGuard, no fault changes the final loss by more than 3 %."""

from __future__ import annotations

from functools import cache

import pytest

faults = pytest.importorskip("faults")


@cache
def healthy_loss(name: str) -> float:
    return faults.end(faults.SCENES[name].healthy, 0, 0, faults.NO_GUARD).loss


@pytest.mark.parametrize("name", [name for name, scene in faults.SCENES.items() if scene.fault])
def test_a_run_with_a_fault_reaches_its_usual_loss(name: str) -> None:
    ending = faults.end(name, 60, 0, faults.GUARD)
    assert faults.passed(name, ending, healthy_loss(name)), ending.story


@pytest.mark.parametrize("name", ["ten NaN batches", "inputs x1e4, one batch", "LR x1000 from then on"])
def test_a_run_with_a_late_fault_reaches_its_usual_loss(name: str) -> None:
    ending = faults.end(name, 231, 1, faults.GUARD)
    assert faults.passed(name, ending, faults.end(faults.SCENES[name].healthy, 0, 1, faults.NO_GUARD).loss), (
        ending.story
    )


@pytest.mark.parametrize("name", ["one NaN batch", "BatchNorm, inputs x1e4, one batch", "LR x1000 from then on"])
def test_without_a_guard_the_same_run_does_not(name: str) -> None:
    assert not faults.passed(name, faults.end(name, 231, 0, faults.NO_GUARD), healthy_loss(name))
