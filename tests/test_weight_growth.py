"""Weights that grow without end: every condition is needed, and `policy="repair"` cures the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lightning_gradguard import GradStats, zoo
from lightning_gradguard.detectors import WeightGrowth
from lightning_gradguard.detectors.weight_growth import measure_growth

Curve = Callable[[float], float]


def steady(t: float) -> float:
    return 10 + 10 * t


def rising(t: float) -> float:
    return 0.2 + 2 * t


def easing(t: float) -> float:
    return 0.7 * math.exp(-t)


def curves(
    weight: Curve = steady,
    grad: Curve = rising,
    loss: Curve = easing,
    steps: int = 1000,
    total: int | None = 1000,
    every: int = 50,
) -> Iterator[GradStats]:
    """The steps of a run with these curves, functions of the share of the run."""
    for step in range(steps):
        t = step / steps
        norms = dict(param_norm=np.array([weight(t), 1.0])) if step % every == 1 % every else {}
        yield GradStats.of({"a": grad(t), "b": 0.0}, step=step, loss=loss(t), total_steps=total, **norms)


def first_step(detector: WeightGrowth = WeightGrowth(), **options: Any) -> int | None:  # noqa: B008
    """First step on which the detector reports."""
    state = detector.init()
    for stats in curves(**options):
        state, found = detector.update(state, stats)
        if found:
            assert found[0].layers == ("a",)
            return stats.step
    return None


def test_it_reports_after_half_of_the_run_and_on_two_samples_in_a_row() -> None:
    assert first_step() == 601
    early = WeightGrowth(growth=1.2)
    assert first_step(early, total=1002) == 551  # the samples of steps 501 and 551
    assert first_step(early, total=1003) == 601
    assert (
        first_step(WeightGrowth(growth=1.01, grad_growth=1.01), steps=40, total=2, every=1) == 8
    )  # eight samples are needed
    assert first_step(early, total=None) is None
    assert first_step(early, steps=5000, total=None) == 2551  # of 5,000 steps that are assumed


def test_the_measured_growth() -> None:
    step = np.arange(101.0)
    log_grad, loss = np.cumsum(0.02 * step), np.cumsum(2 - 0.01 * step)
    growth, pace, grad_growth, loss_ratio = measure_growth(np.stack([step, 10 + 0.1 * step, step, log_grad, loss], 1))
    assert (growth, pace) == (pytest.approx(2.0), pytest.approx(1.0))
    # Means over (75, 100] and (0, 20], and over (75, 100] and (50, 75].
    assert grad_growth == pytest.approx(math.exp(0.02 * (88 - 10.5)))
    assert loss_ratio == pytest.approx((2 - 0.88) / (2 - 0.63))


@pytest.mark.parametrize("column", [(0.0, 0.0), (5.0, -1.0)])
def test_growth_that_cannot_be_measured(column: tuple[float, float]) -> None:
    step = np.arange(101.0)
    weight = np.linspace(*column, 101)
    growth, pace, _, loss_ratio = measure_growth(np.stack([step, weight, step, step, -step], 1))
    assert math.isnan(growth) == (column[0] == 0)
    assert (pace, math.isnan(loss_ratio)) == (0.0, True)


@pytest.mark.parametrize("option", ["growth", "pace", "grad_growth", "loss_drop"])
def test_each_limit_is_reached_exactly(option: str) -> None:
    *before, last = [stats for stats in curves(steps=952) if stats.step < 951 or stats.param_norm is not None]
    state = WeightGrowth().init()
    for stats in before:
        state, _ = WeightGrowth().update(state, stats)
    growth, pace, grad_growth, loss = measure_growth(WeightGrowth().update(state, last)[0]["rows"])
    limits = {"growth": growth, "pace": pace, "grad_growth": grad_growth, "loss_drop": 1 - loss}
    sign = -1 if option == "loss_drop" else 1
    for factor, counts in ((1 - sign * 1e-9, True), (1 + sign * 1e-9, False)):
        detector = WeightGrowth(**{option: limits[option] * factor})
        assert detector.update(state, last)[0]["samples"] == (state["samples"] + 1 if counts else 0)


def test_samples_that_are_not_finite_and_steps_that_are_not_clean_are_left_out() -> None:
    detector = WeightGrowth()
    state = detector.init()
    for fields in ({"loss": math.nan}, {"loss": None}, {"scaler_overflow": True}, {"grad_norm": {"a": 0.0}}):
        state, _ = detector.update(state, GradStats.of(**{"grad_norm": {"a": 1.0}, "loss": 1.0, **fields}))
    state, _ = detector.update(state, GradStats.of({"a": math.e}, loss=3.0, param_norm=np.array([math.inf])))
    assert state == {**detector.init(), "rows": state["rows"], "sums": [1, 1.0, 3.0]}
    assert len(state["rows"]) == 0


def test_only_weight_matrices_count_where_there_are_any() -> None:
    stats = GradStats.of({"a": 1.0, "b": 1.0}, step=7, loss=1.0, param_norm=np.array([3.0, 4.0]))
    vectors = replace(stats, layers=replace(stats.layers, matrix=np.array([False, False])))
    mixed = replace(stats, layers=replace(stats.layers, matrix=np.array([True, False])))
    rows = [WeightGrowth().update(WeightGrowth().init(), s)[0]["rows"] for s in (stats, vectors, mixed)]
    assert [row[0, :2].tolist() for row in rows] == [[7.0, norm] for norm in (5.0, 5.0, 3.0)]


def test_the_layers_that_grew_most_are_named() -> None:
    detector, state, found = WeightGrowth(), WeightGrowth().init(), ()
    for stats in curves():
        if stats.param_norm is not None:
            a = stats.param_norm[0]
            norms = np.array([a, 2 * a - 10, 1.0, 0.0])  # the second grows faster
            stats = replace(stats, param_norm=norms)
        layers = replace(stats.layers, names=tuple("abcd"), numel=np.ones(4, int), matrix=np.ones(4, bool))
        grads = np.array([*stats.grad_norm, 0.0, 0.0])
        state, found = detector.update(state, replace(stats, layers=layers, grad_norm=grads))
    assert found[0].layers == ("b",)


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
    assert 200 < len(state["rows"]) <= 400
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
