"""Weights that grow without end: every condition is needed, and `policy="repair"` cures the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from lightning_gradguard import GradStats, zoo
from lightning_gradguard.detectors import WeightGrowth

Curve = Callable[[float], float]


def steady(t: float) -> float:
    return 10 + 10 * t


def rising(t: float) -> float:
    return 0.2 + 2 * t


def easing(t: float) -> float:
    return 0.7 * math.exp(-t)


def first_step(weight: Curve = steady, grad: Curve = rising, loss: Curve = easing, steps: int = 1000) -> int | None:
    """First step on which the detector reports these curves, functions of the share of the run."""
    detector = WeightGrowth()
    state = detector.init()
    for step in range(steps):
        t = step / steps
        norms = dict(param_norm=np.array([weight(t), 1.0])) if step % 50 == 1 else {}
        stats = GradStats.of({"a": grad(t), "b": 0.0}, step=step, loss=loss(t), total_steps=steps, **norms)
        state, found = detector.update(state, stats)
        if found:
            assert found[0].layers == ("a",)
            return step
    return None


def test_it_reports_after_half_of_the_run_and_on_two_samples_in_a_row() -> None:
    assert first_step() == 601


@pytest.mark.parametrize(
    "healthy",
    [
        dict(weight=lambda t: 10 + 10 * math.sqrt(t)),  # a random walk's growth slows down
        dict(weight=lambda t: 10 + 4 * t),  # not much
        dict(grad=lambda t: 1.0),  # the gradients do not grow
        dict(loss=lambda t: 0.7 * math.exp(-8 * t)),  # the run leaves a plateau
        dict(loss=lambda t: 0.7),  # the loss does not decrease: another symptom
        dict(loss=lambda t: -t),  # a likelihood below zero
    ],
)
def test_each_condition_is_needed(healthy: dict[str, Curve]) -> None:
    assert first_step(**healthy) is None


def test_a_long_run_keeps_a_bounded_state() -> None:
    detector = WeightGrowth()
    state = detector.init()
    for step in range(2000):
        stats = GradStats.of({"a": 1.0}, step=step, loss=1.0, param_norm=np.array([1.0 + step]))
        state, _ = detector.update(state, stats)
    assert len(state["rows"]) <= 400
    assert state["rows"][0, 0] == 0


def test_repair_reduces_the_weights_and_increases_the_accuracy() -> None:
    alone = zoo.run_case("weight_growth", policy="monitor", accelerator="cpu")
    repaired = zoo.run_case("weight_growth", policy="repair", accelerator="cpu")
    (incident,) = repaired.incidents
    assert (incident.kind, incident.actions, incident.outcome) == (
        "weight_growth",
        ("IncreaseWeightDecay",),
        "resolved",
    )
    assert not repaired.has_symptom
    assert repaired.metric > alone.metric + 0.05
