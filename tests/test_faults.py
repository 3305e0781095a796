"""A short form of `benchmarks/faults.py`: every fault, early and late, ends well under guard."""

from __future__ import annotations

from functools import cache

import pytest

faults = pytest.importorskip("faults")


@cache
def healthy_loss(name: str) -> float:
    return faults.end(faults.SCENES[name].healthy, 0, 0, faults.NO_GUARD).loss


@pytest.mark.parametrize("name", [name for name, scene in faults.SCENES.items() if scene.fault])
def test_a_fault_ends_well(name: str) -> None:
    ending = faults.end(name, 60, 0, faults.GUARD)
    assert faults.kept(name, ending, healthy_loss(name)), ending.story


@pytest.mark.parametrize("name", ["ten NaN batches", "inputs x1e4, one batch", "LR x1000 from then on"])
def test_a_late_fault_ends_well(name: str) -> None:
    ending = faults.end(name, 231, 1, faults.GUARD)
    assert faults.kept(name, ending, faults.end(faults.SCENES[name].healthy, 0, 1, faults.NO_GUARD).loss), ending.story


@pytest.mark.parametrize("name", ["one NaN batch", "BatchNorm, inputs x1e4, one batch", "LR x1000 from then on"])
def test_the_same_fault_ends_badly_without_a_guard(name: str) -> None:
    assert not faults.kept(name, faults.end(name, 231, 0, faults.NO_GUARD), healthy_loss(name))
