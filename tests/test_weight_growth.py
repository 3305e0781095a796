"""Weights that grow without end: every sign is needed, and a guard that repairs brings the run back."""

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
    """First step at which the detector speaks of these curves over the share of the run."""
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


def test_it_speaks_once_half_of_the_run_is_over_and_at_two_samples_in_a_row() -> None:
    assert first_step() == 601


@pytest.mark.parametrize(
    "healthy",
    [
        dict(weight=lambda t: 10 + 10 * math.sqrt(t)),  # a random walk's growth slows down
        dict(weight=lambda t: 10 + 4 * t),  # not much
        dict(grad=lambda t: 1.0),  # learning goes on as it did
        dict(loss=lambda t: 0.7 * math.exp(-8 * t)),  # the run leaves a plateau
        dict(loss=lambda t: 0.7),  # nothing is gained: another symptom
        dict(loss=lambda t: -t),  # a likelihood below zero
    ],
)
def test_each_sign_is_needed(healthy: dict[str, Curve]) -> None:
    assert first_step(**healthy) is None


def test_a_long_run_keeps_a_bounded_state() -> None:
    detector = WeightGrowth()
    state = detector.init()
    for step in range(2000):
        stats = GradStats.of({"a": 1.0}, step=step, loss=1.0, param_norm=np.array([1.0 + step]))
        state, _ = detector.update(state, stats)
    assert len(state["rows"]) <= 400
    assert state["rows"][0, 0] == 0


def test_repair_brings_the_weights_back_and_the_accuracy_up() -> None:
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
