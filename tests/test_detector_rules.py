"""Every clause of every detector: its boundary, its first step, and what it leaves in the state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest

from lightning_gradguard import GradStats, detectors
from lightning_gradguard.collect.activation_stats import ActivationRecord, ActivationStats
from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.collect.loss_trend import LossTrend
from lightning_gradguard.detectors import AbstractDetector, State
from lightning_gradguard.detectors.bad_batch import describe_samples
from lightning_gradguard.modules.activations import Traits

STUCK, REGRESSING = LossTrend(is_stuck=True), LossTrend(is_regressing=True)
OVER_ONE = math.nextafter(1.0, 2.0)


def reported(detector: AbstractDetector, steps: Sequence[dict[str, Any]]) -> tuple[list[int], State]:
    """On which steps the detector reports, and its last state; a step's fields are those of `GradStats`."""
    state, found = detector.init(), []
    for step, measured in enumerate(steps):
        stats = GradStats.of(**{"grad_norm": {"a": 1.0}, "loss": 1.0, "lr": 0.1, "step": step, **measured})
        state, findings = detector.update(state, stats)
        found += [step] if findings else []
    return found, state


def losses(*values: float) -> list[dict[str, Any]]:
    return [{"loss": value} for value in values]


def norms(*values: float, loss: float = 1.0) -> list[dict[str, Any]]:
    return [{"grad_norm": {"a": value}, "loss": loss} for value in values]


# ---------------------------------------------------------------- options

#: Defaults with a source or a measurement in the docstring, and the rest; a change here is a change of judgment.
DEFAULTS: dict[str, dict[str, float]] = {
    "BadBatch": {"limit": 1e3, "factor": 10, "warmup": 20, "patience": 20},
    "Collapsed": {"spread": 0.005, "patience": 2},
    "DeadUnits": {"share": 0.9, "patience": 3, "rows": 20},
    "DamagedWeights": {"factor": 10, "suspicious": 5, "rise": 3, "share": 0.3, "window": 20},
    "Diverging": {},
    "EarlyOutlier": {"factor": 1e3, "warmup": 10},
    "Exploding": {"factor": 1e3, "warmup": 20, "window": 100, "sustained": 5, "patience": 20},
    "ExplodingBuffer": {"factor": 100, "warmup": 20},
    "ExplodingThroughTime": {"decades": 4, "patience": 3},
    "InvalidLR": {},
    "LRJump": {"factor": 10, "update_ratio": 0.1, "warmup": 20},
    "LossIncrease": {"sustained": 20, "share": 0.7, "window": 100},
    "LossSpike": {"factor": 50, "warmup": 20, "window": 100},
    "NoProgress": {"travel": 0.3},
    "NonFinite": {},
    "NonFiniteState": {},
    "Oscillating": {"window": 100, "swings": 5, "share": 0.5},
    "Overshooting": {"limit": 100, "multi_optimizer_limit": 1},
    "PoorInitialization": {"decades": 4, "spread": 0.005},
    "Saturated": {"share": 0.9, "patience": 3},
    "Stalled": {"patience": 20, "converged": 0.01, "eps_ratio": 30},
    "UnnormalizedInput": {"limit": 30},
    "UnnormalizedTarget": {"limit": 30},
    "LossMismatch": {"outside": 0.05},
    "ConstantTarget": {"samples": 3, "same": 20},
    "Unused": {"steps": 1000, "min_steps": 100},
    "Vanishing": {"decades": 2, "floor": 1e-7, "patience": 50, "window": 100},
    "VanishingThroughTime": {"decades": 5, "patience": 3},
    "WeightGrowth": {"growth": 1.5, "pace": 0.88, "grad_growth": 2.7, "loss_drop": 0.4},
}
#: Options that have to be above a number; the others have to be at least 1.
ABOVE_ONE = {"BadBatch.limit", "growth", "grad_growth", "factor"}
ABOVE_ZERO = {
    "limit", "multi_optimizer_limit", "spread", "decades", "update_ratio", "floor", "pace", "LossIncrease.sustained",
    "LossIncrease.share", "LossIncrease.window", "Collapsed.patience", "ExplodingThroughTime.patience",
    "VanishingThroughTime.patience", "Vanishing.patience", "Vanishing.window", "Oscillating.share",
    "DamagedWeights.factor", "suspicious", "rise", "DamagedWeights.share", "DamagedWeights.window",
    "Stalled.eps_ratio",
}  # fmt: skip
#: Smallest and largest allowed, and refused, where the rule is another one.
RANGES = {
    "NoProgress.travel": ([0.0], [-1e-9]),
    "Oscillating.window": ([20], [19]),
    "Oscillating.swings": ([2], [1]),
    "Stalled.converged": ([0.0, 1 - 1e-9], [-1e-9, 1.0]),
    "EarlyOutlier.warmup": ([3], [2]),
    "WeightGrowth.loss_drop": ([1e-9, 1 - 1e-9], [0.0, 1.0]),
    "DeadUnits.share": ([1e-9, 1.0], [0.0, 1 + 1e-9]),
    "Saturated.share": ([1e-9, 1.0], [0.0, 1 + 1e-9]),
    "LossMismatch.outside": ([1e-9, 1 - 1e-9], [0.0, 1.0]),
}


def allowed_and_refused(cls: str, option: str) -> tuple[list[float], list[float]]:
    names = {option, f"{cls}.{option}"}
    if ranges := RANGES.get(f"{cls}.{option}"):
        return ranges
    if names & ABOVE_ONE and cls != "DamagedWeights":
        return [1 + 1e-9], [1.0]
    return ([1e-9], [0.0]) if names & ABOVE_ZERO else ([1], [0])


def test_defaults() -> None:
    for detector in detectors.DETECTORS:
        options = {f.name: getattr(detector, f.name) for f in fields(detector) if f.name != "name"}  # type: ignore[arg-type]
        assert options == DEFAULTS[type(detector).__name__]
        assert detector.name == detector.kind


@pytest.mark.parametrize(("cls", "option"), [(cls, option) for cls, options in DEFAULTS.items() for option in options])
def test_options_are_checked(cls: str, option: str) -> None:
    allowed, refused = allowed_and_refused(cls, option)
    for value in allowed:
        getattr(detectors, cls)(**{option: value})
    for value in refused:
        with pytest.raises(ValueError, match=rf"`{cls}\({option}=...\)` must .*, got {value}"):
            getattr(detectors, cls)(**{option: value})


# ---------------------------------------------------------------- Exploding


@pytest.mark.parametrize(("norm", "flagged"), [(10.0, False), (10.0 * OVER_ONE, True)])
def test_a_jump_is_above_factor_times_the_highest_norm(norm: float, flagged: bool) -> None:
    found, _ = reported(detectors.Exploding(factor=10, warmup=3), norms(1.0, 0.5, 1.0, norm))
    assert found == [3] * flagged


@pytest.mark.parametrize("at", [1, 3, 4])
def test_an_explosion_is_reported_from_the_second_step_on(at: int) -> None:
    values = [1.0] * 6
    values[at] = 50.0
    assert reported(detectors.Exploding(factor=10, warmup=4), norms(*values))[0] == [at]


def test_a_first_gradient_that_cannot_be_squared_is_reported_without_a_limit() -> None:
    stats = GradStats.of({"a": 1e19}, loss=1.0)
    (finding,) = detectors.Exploding().update(detectors.Exploding().init(), stats)[1]
    assert math.isnan(finding.limit)
    assert finding.detail == "gradient norm is 1e+19"


@pytest.mark.parametrize(
    ("before", "now", "layers"),
    [
        (1e-3, 0.9, None),  # a thousand times its own record, but below the highest global norm
        (1e-3, 1.2, ("b",)),
        (0.3, 1.2, None),  # above the highest global norm, but only four times its own record
        (0.0, 1.2, None),  # no record to compare with
    ],
)
def test_a_layer_jumps_above_its_own_record_and_the_global_one(before: float, now: float, layers: Any) -> None:
    detector, state = detectors.Exploding(factor=10, warmup=3), detectors.Exploding().init()
    for step in range(3):
        state, _ = detector.update(state, GradStats.of({"a": 1.0, "b": before}, step=step, loss=1.0))
    found = detector.update(state, GradStats.of({"a": 0.1, "b": now}, step=3, loss=1.0))[1]
    assert [finding.layers for finding in found] == [layers] * (layers is not None)


#: A record of 5 over a median of 1, so that a norm of 20 is no jump but above ten times the median.
RECORD = [1.0, 1.0, 5.0, 1.0, 1.0]
GROWTH = detectors.Exploding(factor=10, warmup=5, window=9, sustained=3)


def grown(*values: float, loss: float = 2.0) -> list[int]:
    return reported(GROWTH, [*norms(*RECORD), *norms(*values, loss=loss)])[0]


def test_growth_is_reported_once_it_lasts_and_the_loss_is_above_its_median() -> None:
    assert grown(20.0, 21.0, 22.0, 23.0) == [7, 8]
    assert grown(20.0, 21.0, 22.0, 23.0, loss=1.0) == []  # the median of the losses
    assert grown(20.0, 21.0, 1.0, 22.0, 23.0) == []  # not in a row
    assert grown(20.0, 21.0, 1.0, 22.0, 23.0, 24.0) == [10]


@pytest.mark.parametrize(
    ("norm", "flagged"), [(10.0, False), (10.0 * OVER_ONE, True), (5.0, False), (5.0 * OVER_ONE, False)]
)
def test_growth_is_above_factor_times_the_median_norm(norm: float, flagged: bool) -> None:
    assert bool(grown(norm, norm, norm)) == flagged


@pytest.mark.parametrize(("record", "flagged"), [(12.0, False), (11.99, True)])
def test_growth_is_above_the_highest_norm(record: float, flagged: bool) -> None:
    steps = [*norms(1.0, 1.0, 9.0, 1.0, 1.0), *norms(record), *norms(12.0, 12.0, 12.0, loss=2.0)]
    assert bool(reported(GROWTH, steps)[0]) == flagged


def test_a_growing_step_enters_no_baseline() -> None:
    _, state = reported(GROWTH, [*norms(*RECORD), *norms(20.0, loss=2.0)])
    assert (state["limit"], state["norms"], state["losses"]) == (5.0, RECORD, [1.0] * 5)


def test_the_medians_are_those_of_the_last_window() -> None:
    _, state = reported(GROWTH, norms(*map(float, range(1, 21))))
    assert (state["norms"], len(state["losses"])) == ([float(i) for i in range(12, 21)], 9)


@pytest.mark.parametrize(("loss", "last"), [(1.0, 8), (1.0 * OVER_ONE, 29)])
def test_only_a_level_with_an_ordinary_loss_becomes_normal(loss: float, last: int) -> None:
    detector = detectors.Exploding(factor=10, warmup=5, patience=5)
    found, state = reported(detector, [*norms(*[1.0] * 5), *norms(*[100.0] * 25, loss=loss)])
    assert found == list(range(5, last + 1))
    assert math.isnan(state["limit"]) or state["limit"] == (100.0 if last == 8 else 1.0)


def test_zero_gradients_enter_no_baseline() -> None:
    _, state = reported(detectors.Exploding(warmup=2), norms(0.0, 1.0, 0.0))
    assert state["norms"] == [1.0]
    assert math.isnan(state["limit"])


def test_the_global_norm_can_jump_without_any_layer() -> None:
    detector, state = detectors.Exploding(factor=10, warmup=2), detectors.Exploding().init()
    for step, row in enumerate(({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0})):
        state, _ = detector.update(state, GradStats.of(row, step=step, loss=1.0))
    assert detector.update(state, GradStats.of({"a": 7.0, "b": 7.0}, loss=1.0))[1] == ()
    (finding,) = detector.update(state, GradStats.of({"a": 7.1, "b": 7.1}, loss=1.0))[1]
    assert finding.value == pytest.approx(7.1 * math.sqrt(2))


def test_growth_is_that_of_the_global_norm_and_names_layers_with_at_least_half_of_its_decades() -> None:
    detector, state = detectors.Exploding(factor=10, warmup=5, sustained=1), detectors.Exploding().init()
    for step, norm in enumerate((1.0, 1.0, 5.0, 1.0, 1.0)):
        row = {"c": 0.1, "a": norm, "b": 0.1, "d": 0.1}
        state, _ = detector.update(state, GradStats.of(row, step=step, loss=1.0))
    stats = GradStats.of({"c": 0.19, "a": 20.0, "b": 0.2, "d": 0.1}, step=5, loss=2.0)
    (finding,) = detector.update(state, stats)[1]
    assert finding.layers == ("a", "b")  # four times and twice their record


@pytest.mark.parametrize("loss", [None, math.nan])
def test_an_explosion_needs_no_loss_but_a_finite_one(loss: float | None) -> None:
    steps = [{"grad_norm": {"a": norm}, "loss": loss} for norm in (1.0, 1.0, 50.0)]
    found, state = reported(detectors.Exploding(factor=10, warmup=2), steps)
    assert found == [2] * (loss is None)
    assert (state["norms"], state["losses"]) == ([1.0, 1.0] if loss is None else [], [])


def test_a_jump_with_an_ordinary_loss_ends_a_growth() -> None:
    growing, jump = norms(20.0, loss=2.0), norms(200.0)
    assert reported(GROWTH, [*norms(*RECORD), *growing * 2, *jump, *growing * 3])[0] == [7, 10]


def test_flagged_steps_with_an_ordinary_loss_are_counted_in_a_row() -> None:
    detector = detectors.Exploding(factor=10, warmup=5, patience=3)
    steps = [*norms(*[1.0] * 5), *norms(100.0, 100.0), *norms(100.0, loss=2.0), *norms(100.0, 100.0, 100.0)]
    assert reported(detector, steps)[0] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(("norm", "flagged"), [(10.0, False), (10.0 * OVER_ONE, True)])
def test_an_early_explosion_is_above_factor_times_the_highest_norm_so_far(norm: float, flagged: bool) -> None:
    assert reported(detectors.Exploding(factor=10, warmup=9), norms(1.0, 0.5, norm))[0] == [2] * flagged
    assert reported(detectors.Exploding(factor=10, warmup=9), norms(1e18 * norm / 10))[0] == [0] * flagged


def test_an_early_explosion_names_the_layers_with_a_tenth_of_the_largest_norm() -> None:
    detector, state = detectors.Exploding(factor=10, warmup=9), detectors.Exploding().init()
    state, _ = detector.update(state, GradStats.of({"a": 1.0, "b": 0.0, "c": 0.0}, loss=1.0))
    (finding,) = detector.update(state, GradStats.of({"a": 10.0, "b": 100.0, "c": 9.9}, loss=1.0))[1]
    assert (finding.layers, finding.limit) == (("b", "a"), 1.0)
    assert finding.value == pytest.approx(100.98, rel=1e-4)
    assert finding.detail == "gradient norm is 101, 101 times the highest before (limit 1)"


# ---------------------------------------------------------------- EarlyOutlier

OUTLIER = detectors.EarlyOutlier(factor=10, warmup=5)


@pytest.mark.parametrize(("norm", "flagged"), [(10.0, False), (10.0 * OVER_ONE, True)])
def test_an_outlier_is_above_factor_times_the_median_of_the_first_steps(norm: float, flagged: bool) -> None:
    found, state = reported(OUTLIER, norms(norm, 1.0, 1.0, 2.0, 0.5))
    assert found == [4] * flagged
    assert len(state["norms"]) == 5 * (not flagged)  # it begins again after a finding


def test_an_outlier_tells_its_step() -> None:
    state = OUTLIER.init()
    for step, norm in enumerate((2.0, 20.0, 22.0, 1.0, 0.5)):
        state, found = OUTLIER.update(state, GradStats.of({"a": norm}, step=step, loss=1.0))
    ((value, limit, layers, detail),) = [(f.value, f.limit, f.layers, f.detail) for f in found]
    assert (value, limit, layers) == (22.0, 20.0, ())
    assert detail == "gradient norm was 22 at step 2, 11 times the median of the first 5 (limit 10)"


@pytest.mark.parametrize(("norm", "left_out"), [(10.0, False), (10.0 * OVER_ONE, True)])
def test_a_gradient_that_stands_out_at_once_is_no_early_outlier(norm: float, left_out: bool) -> None:
    assert len(reported(OUTLIER, norms(0.5, 1.0, norm))[1]["norms"]) == 3 - left_out


def test_the_last_of_the_first_steps_is_not_judged() -> None:
    assert reported(OUTLIER, norms(0.1, 0.1, 0.1, 1.0, 10.0, 0.1))[0] == []


def test_no_gradient_is_an_early_outlier_after_the_first_steps() -> None:
    assert reported(OUTLIER, norms(5.0, 1.0, 1.0, 1.0, 1.0, *[0.1] * 9))[0] == []


def test_a_restored_run_has_its_own_first_steps() -> None:
    after = {"restored": True, **norms(1.0)[0]}
    found, state = reported(OUTLIER, [*norms(90.0, 1.0), after, *norms(1.0, 1.0, 1.0)])
    assert (found, len(state["norms"])) == ([], 4)


def test_steps_without_a_finite_gradient_are_not_among_the_first() -> None:
    steps = [*norms(90.0, 1.0, 0.0, math.inf), *norms(1.0, loss=math.nan), *norms(1.0, 1.0, 1.0)]
    assert reported(OUTLIER, steps)[0] == [7]


# ---------------------------------------------------------------- DamagedWeights

DAMAGED = detectors.DamagedWeights(factor=10, suspicious=5, window=4)
#: The median of the losses is 1, and their spread 1.
USUAL = losses(1.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("before", "loss", "wanted"),
    [
        (USUAL, 6.0, False),
        (USUAL, 6.0 * OVER_ONE, True),
        (losses(2.0, 2.0, 2.0), 3.0, False),  # the spread is a tenth of the median at least
        (losses(2.0, 2.0, 2.0), 3.01, True),
        (losses(-2.0, -2.0, -2.0), -1.0, False),
        (losses(-2.0, -2.0, -2.0), -0.99, True),
        (losses(1.0, 1.0), 1e9, False),  # too few to tell what is usual
        (USUAL, math.nan, True),
        (USUAL, None, False),
    ],
)
def test_the_last_batch_is_measured_again_where_a_loss_is_suspicious(
    before: list[dict[str, Any]], loss: float | None, wanted: bool
) -> None:
    _, state = reported(DAMAGED, before)
    stats = GradStats.of({"a": 1.0}, loss=loss)
    assert DAMAGED.wants_recheck(state, stats) is wanted
    after, found = DAMAGED.update(state, stats)
    assert found == ()
    assert (after == state) is (wanted or loss is None)


@pytest.mark.parametrize("fields", [{"scaler_overflow": True}, {"multiple_optimizers": True}])
def test_a_loss_that_says_nothing_is_not_suspicious(fields: dict[str, Any]) -> None:
    _, state = reported(DAMAGED, USUAL)
    assert not DAMAGED.wants_recheck(state, GradStats.of({"a": 1.0}, loss=math.nan, **fields))
    assert not DAMAGED.wants_recheck(state, GradStats.of({"a": 1.0}, loss=99.0, **fields))
    assert reported(DAMAGED, [*USUAL, {"loss": 1.0, "multiple_optimizers": True}])[1] == state


def test_no_loss_below_a_recent_one_is_suspicious() -> None:
    detector = detectors.DamagedWeights(suspicious=0.5)
    _, state = reported(detector, USUAL)
    assert [detector.wants_recheck(state, GradStats.of({"a": 1.0}, loss=x)) for x in (2.0, 2.0 * OVER_ONE)] == [0, 1]


@pytest.mark.parametrize(("now", "damaged"), [(10.5, False), (10.6, True), (math.nan, True)])
def test_weights_are_damaged_where_the_loss_of_a_batch_has_jumped(now: float, damaged: bool) -> None:
    _, state = reported(DAMAGED, USUAL)
    after, found = DAMAGED.update(state, GradStats.of({"a": 1.0}, loss=1.5, recheck=(0.5, now)))
    assert [(f.limit, f.layers) for f in found] == [(10.5, ())] * damaged
    assert (after == state) is damaged


#: The median of the last losses is 1, their spread 1, and the progress since the first one 11.
BEFORE_RISE = losses(12.0, 1.0, 1.0, 1.0, 2.0)


@pytest.mark.parametrize(("loss", "rises"), [(4.3, False), (4.31, True)])  # by 3 spreads and 0.3 of the progress
@pytest.mark.parametrize("good", [False, True])
def test_a_rise_keeps_the_weights_from_before_it(loss: float, rises: bool, good: bool) -> None:
    _, state = reported(DAMAGED, BEFORE_RISE)
    stats = GradStats.of({"a": 1.0}, loss=loss, weights_known_good=good)
    assert DAMAGED.wants_recheck(state, stats) is rises
    after, found = DAMAGED.update(state, stats)
    assert found == ()
    assert (after["since_rise"] == 0, DAMAGED.wants_snapshot(after, stats)) == (rises, rises and good)
    assert after["hold_snapshots"] is (rises and not good)


def test_the_weights_after_a_rise_are_not_kept_where_they_are_damaged_or_nothing_is_finite() -> None:
    _, state = reported(DAMAGED, [*BEFORE_RISE, *losses(5.0)])
    for stats in (
        GradStats.of({"a": 1.0}, loss=90.0, recheck=(5.0, 90.0)),
        GradStats.of({"a": 1.0}, loss=math.nan, weights_known_good=True),
    ):
        after, _ = DAMAGED.update(state, stats)
        assert after == state
        assert not DAMAGED.wants_snapshot(after, stats)


def test_a_rise_that_undoes_little_of_the_progress_or_comes_early_is_none() -> None:
    for before, loss in ((losses(99.0, 1.0, 1.0, 1.0, 2.0), 6.0), (losses(1.0, 1.0, 2.0), 99.0)):
        _, state = reported(DAMAGED, [*before, *losses(loss)])
        assert state["since_rise"] is None


def test_after_a_rise_the_last_batches_are_compared_every_eight_steps() -> None:
    _, state = reported(DAMAGED, [*BEFORE_RISE, *losses(5.0)])
    wanted, held = [], []
    for step in range(1, 80):
        stats = GradStats.of({"a": 1.0}, loss=1.0)
        wanted += [step] * DAMAGED.wants_comparison(state, stats)
        assert not DAMAGED.wants_comparison(state, GradStats.of({"a": 1.0}, loss=math.nan))
        state, _ = DAMAGED.update(state, stats)
        held += [step] * state["hold_snapshots"]
    assert wanted == [8, 16, 24, 32, 40, 48, 56, 64]
    assert held == [*range(1, 65)]


@pytest.mark.parametrize(
    ("comparison", "limit"),
    [((5.0, 2.9, 0.1), None), ((5.0, 2.7, 0.1), 4.9), ((5.0, 2.7, 0.4), None), ((5.0, 2.0, 0.4), 4.4)],
)
def test_weights_are_damaged_where_a_snapshot_does_far_better(comparison: Any, limit: float | None) -> None:
    _, state = reported(DAMAGED, [*BEFORE_RISE, *losses(5.0), *losses(*[4.0] * 7)])
    after, found = DAMAGED.update(state, GradStats.of({"a": 1.0}, loss=4.0, comparison=comparison))
    assert [(f.value, f.limit) for f in found] == ([(5.0, pytest.approx(limit))] if limit is not None else [])
    assert (after == state) is bool(found)


def test_weights_are_not_judged_before_a_usual_loss_is_known() -> None:
    stats = GradStats.of({"a": 1.0}, loss=1.0, recheck=(0.5, 0.5))
    assert DAMAGED.update(DAMAGED.init(), stats) == ({**DAMAGED.init(), "losses": [1.0], "first": 1.0}, ())
    assert not DAMAGED.confirms_weights(DAMAGED.init(), stats)


@pytest.mark.parametrize(("now", "good"), [(1.5, True), (1.51, False), (math.nan, False)])
def test_weights_are_good_where_the_loss_of_a_batch_is_as_it_was(now: float, good: bool) -> None:
    _, state = reported(DAMAGED, USUAL)
    assert DAMAGED.confirms_weights(state, GradStats.of({"a": 1.0}, loss=1.0, recheck=(0.5, now))) is good
    assert not DAMAGED.confirms_weights(state, GradStats.of({"a": 1.0}, loss=1.0))


def test_what_is_usual_is_that_of_the_last_window() -> None:
    assert reported(DAMAGED, losses(1.0, 2.0, 1.5, 1.0, 2.0))[1]["losses"] == [2.0, 1.5, 1.0, 2.0]


# ---------------------------------------------------------------- InvalidLR and NonFiniteState


@pytest.mark.parametrize(
    ("lr", "shown"), [(-1e-9, "-1e-09"), (-math.inf, "not finite"), (math.inf, "not finite"), (0.0, ""), (math.nan, "")]
)
def test_a_learning_rate_is_invalid_below_zero_and_where_it_is_infinite(lr: float, shown: str) -> None:
    found = detectors.InvalidLR().update({}, GradStats.of({"a": 1.0}, lr=lr))[1]
    assert [(f.value, f.limit, f.detail) for f in found] == [(lr, 0.0, f"learning rate is {shown}")] * bool(shown)


def test_layers_whose_state_is_not_finite_are_reported_on_every_step() -> None:
    assert reported(detectors.NonFiniteState(), [{}, {"nonfinite_state": ("a",)}, {"loss": math.nan}])[0] == [1]


# ---------------------------------------------------------------- ExplodingBuffer


def buffers(*values: float) -> list[dict[str, Any]]:
    return [{"buffers": ("mean", "var"), "buffer_norm": np.array([1.0, value])} for value in values]


@pytest.mark.parametrize(("norm", "flagged"), [(20.0, False), (20.0 * OVER_ONE, True)])
def test_a_buffer_explodes_above_factor_times_its_highest_norm(norm: float, flagged: bool) -> None:
    found, state = reported(detectors.ExplodingBuffer(factor=10, warmup=3), buffers(1.0, 2.0, 1.0, norm))
    assert found == [3] * flagged
    assert state["highest"].tolist() == [1.0, 2.0 if flagged else norm]


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_buffer_is_judged_from_the_second_step_on(at: int) -> None:
    values = [1.0] * 6
    values[at] = 50.0
    assert reported(detectors.ExplodingBuffer(factor=10, warmup=4), buffers(*values))[0] == [at]


def test_a_buffer_is_judged_on_clean_steps_with_finite_buffers() -> None:
    detector, start = detectors.ExplodingBuffer(factor=10, warmup=2), buffers(1.0, 1.0)
    assert reported(detector, [*start, {**buffers(50.0)[0], "loss": math.nan}])[0] == []
    found, state = reported(detector, [*start, *buffers(math.inf, math.nan)])
    assert found == []
    assert state["highest"].tolist() == [1.0, 1.0]


def test_the_buffer_with_the_largest_ratio_gives_the_number() -> None:
    detector, state = detectors.ExplodingBuffer(factor=10, warmup=1), detectors.ExplodingBuffer().init()
    names = ("mean", "var", "count")
    for row in (np.array([1.0, 2.0, 9.0]), np.array([20.0, 60.0, 9.0])):
        state, found = detector.update(state, GradStats.of({"a": 1.0}, loss=1.0, buffers=names, buffer_norm=row))
    assert [(f.layers, f.value, f.limit) for f in found] == [(("mean", "var"), 60.0, 2.0)]


def test_other_buffers_start_over() -> None:
    detector = detectors.ExplodingBuffer(factor=10, warmup=2)
    other = {"buffers": ("other",), "buffer_norm": np.array([50.0])}
    found, state = reported(detector, [*buffers(1.0, 1.0), other, other, {}])
    assert (found, state["highest"].tolist()) == ([], [50.0])


def test_a_buffer_that_was_zero_has_no_limit() -> None:
    assert reported(detectors.ExplodingBuffer(factor=10, warmup=2), buffers(0.0, 0.0, 50.0, 60.0))[0] == []


# ---------------------------------------------------------------- LossSpike

SPIKE = detectors.LossSpike(factor=50, warmup=5, window=9)


@pytest.mark.parametrize(
    ("before", "loss", "flagged"),
    [
        ((1.0, 1.0, 1.0, 1.0, 2.0), 51.0, False),  # 50 times the largest healthy excess of 1
        ((1.0, 1.0, 1.0, 1.0, 2.0), 51.0 * OVER_ONE, True),
        ((1.0, 1.0, 1.0, 1.0, 1.0), 6.0, False),  # the excess counts as a tenth of the median at least
        ((1.0, 1.0, 1.0, 1.0, 1.0), 6.01, True),
        ((2.0, 2.0, 2.0, 2.0, 2.0), 12.0, False),
        ((2.0, 2.0, 2.0, 2.0, 2.0), 12.1, True),
        ((-1.0, -1.0, -1.0, -1.0, -1.0), 4.0, False),
        ((-1.0, -1.0, -1.0, -1.0, -1.0), 4.01, True),
        ((1.0, 1.0, 1.0, 1.0), 1e9, False),  # still warmup
        ((1.0, 1.0, 1.0, 1.0, math.nan, 1.0), 1e9, True),
    ],
)
def test_a_spike_is_above_factor_times_the_largest_healthy_excess(
    before: tuple[float, ...], loss: float, flagged: bool
) -> None:
    found, state = reported(SPIKE, losses(*before, loss))
    assert found == [len(before)] * flagged
    assert (loss in state["losses"]) == (not flagged)


@pytest.mark.parametrize(
    ("before", "loss", "highest"),
    [
        ((1.0, 1.0, 1.0, 1.0, 2.0), 3.0, 3.0),
        ((1.0, 1.0, 1.0, 1.0, 2.0), 40.0, 4.0),
        ((2.0, 2.0, 2.0, 2.0, 2.0), 10.0, 2.6),  # the excess counts as a tenth of the median at least
        ((-2.0, -2.0, -2.0, -2.0, -2.0), 5.0, -1.4),
        ((1.0, 1.0, 1.0, 1.0, 2.0), 1.5, 2.0),
    ],
)
def test_one_step_at_most_triples_the_healthy_excess(before: tuple[float, ...], loss: float, highest: float) -> None:
    found, state = reported(SPIKE, losses(*before, loss))
    assert found == []
    assert state["highest"] == pytest.approx(highest)


@pytest.mark.parametrize(("loss", "highest"), [(2.0, 2.0), (2.01, 1.0)])
def test_outliers_of_the_warmup_are_left_out(loss: float, highest: float) -> None:
    assert reported(SPIKE, losses(1.0, loss, 1.0, 1.0, 1.0))[1]["highest"] == highest


@pytest.mark.parametrize(("loss", "highest"), [(104.0, 104.0), (104.1, 3.0)])
def test_outliers_of_the_warmup_are_relative_to_its_scatter(loss: float, highest: float) -> None:
    # The median is 2, the median deviation 1: up to 100 deviations and the median itself are no outlier.
    assert reported(SPIKE, losses(1.0, 2.0, loss, 3.0, 2.0))[1]["highest"] == highest


def test_the_median_of_the_loss_is_that_of_the_last_window() -> None:
    assert reported(SPIKE, losses(*map(float, range(20, 0, -1))))[1]["losses"] == [float(i) for i in range(9, 0, -1)]


@pytest.mark.parametrize("detector", [SPIKE, detectors.LossIncrease(), detectors.Oscillating()])
@pytest.mark.parametrize("step", [{"loss": None}, {"multiple_optimizers": True}, {"scaler_overflow": True}])
def test_steps_whose_loss_says_nothing_are_ignored(detector: AbstractDetector, step: dict[str, Any]) -> None:
    assert reported(detector, [step] * 9)[1] == detector.init()


def test_a_first_high_loss_does_not_hide_a_spike_after_it() -> None:
    detector = detectors.LossSpike(warmup=5)
    state = detector.init()
    for step, loss in enumerate([2.0, 1.5, 1.2, 1.1, 1.0, 1.0, 1.0, 30.0]):
        state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=loss))
        assert not found
    assert detector.update(state, GradStats.of({"a": 1.0}, step=8, loss=1000.0))[1]


# ---------------------------------------------------------------- LossIncrease

INCREASE = detectors.LossIncrease(sustained=4, share=0.5, window=10)
START = [3.0] * 20 + [1.0] * 10  # the way back to the first loss is 2, so the limit is 2


@pytest.mark.parametrize(("level", "flagged"), [(2.0, False), (2.0 * OVER_ONE, True)])
def test_an_increase_is_above_the_share_of_the_way_back(level: float, flagged: bool) -> None:
    found, _ = reported(INCREASE, losses(*START, *[level] * 5))
    assert found == [33, 34] * flagged


def test_an_increase_lasts_and_is_above_every_recent_loss() -> None:
    assert reported(INCREASE, losses(*START, 2.5, 2.5, 2.5, 1.0, 2.5, 2.5, 2.5))[0] == []
    _, state = reported(INCREASE, losses(*START, 2.5, 2.5, 1.0))
    assert state["losses"][-3:] == [2.5, 2.5, 1.0]  # what came down again was healthy
    assert (state["high"], len(state["losses"])) == ([], 10)
    assert reported(INCREASE, losses(*START, 2.5, 1.0, *[2.5] * 9))[0] == []  # no higher than a recent healthy loss


@pytest.mark.parametrize(
    ("high", "flagged"),
    [
        ((2.6, 2.6, 2.4, 2.4), False),  # it recovers
        ((2.4, 2.4, 2.4, 2.4), True),
        ((2.4, 2.4, 2.6, 2.6), True),
        ((2.4, 2.6, 2.4, 2.6), True),
        ((2.4, 2.6, 2.6, 2.4), False),  # its peak is behind it
        ((2.4, 2.8, 2.4, 2.4), False),
    ],
)
def test_an_increase_that_recovers_is_not_reported(high: tuple[float, ...], flagged: bool) -> None:
    assert reported(INCREASE, losses(*START, *high))[0] == [33] * flagged


def test_the_last_losses_decide_and_not_the_first_high_ones() -> None:
    assert reported(INCREASE, losses(*START, 2.9, 2.9, 2.2, 2.2, 2.2, 2.2))[0] == [35]


@pytest.mark.parametrize(("low", "found"), [(24, []), (25, [46, 47])])
def test_an_increase_needs_half_a_window_of_losses(low: int, found: list[int]) -> None:
    detector = detectors.LossIncrease(sustained=2, share=0.5, window=90)
    assert reported(detector, losses(*[3.0] * 20, *[1.0] * low, *[9.0] * 3))[0] == found


def test_an_increase_of_a_run_without_progress_is_not_reported() -> None:
    assert reported(INCREASE, losses(*[1.0] * 30, *[9.0] * 9))[0] == []
    _, state = reported(INCREASE, [*losses(*[1.0] * 30), {"loss": 9.0, "restored": True}])
    assert state["high"] == [9.0]


@pytest.mark.parametrize(("loss", "accepted"), [(2.0, False), (2.0 * OVER_ONE, True)])
def test_a_high_loss_on_restored_weights_is_the_new_level(loss: float, accepted: bool) -> None:
    _, state = reported(INCREASE, [*losses(*START), {"loss": loss, "restored": True}])
    assert (state == INCREASE.init()) == accepted
    _, state = reported(INCREASE, [*losses(*START), {"loss": loss}])
    assert state["high"] == [loss]


def test_snapshots_are_held_only_while_the_loss_is_high() -> None:
    assert not INCREASE.init()["hold_snapshots"]  # also where a loop shows no loss
    assert [reported(INCREASE, losses(*START, *[2.5] * n))[1]["hold_snapshots"] for n in range(6)] == [
        False, True, True, True, False, False,
    ]  # fmt: skip


def test_the_progress_is_measured_from_the_first_twenty_losses() -> None:
    assert len(reported(INCREASE, losses(*START))[1]["first"]) == 20


@pytest.mark.parametrize(("back", "found"), [(1.2, False), (1.9, True)])
def test_a_loss_increase_is_a_lasting_loss_of_most_of_the_progress(back: float, found: bool) -> None:
    detector = detectors.LossIncrease()
    state, ever = detector.init(), False
    for step in range(200):
        loss = 2.0 if step < 20 else 0.1 if step < 150 else back
        state, now = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=loss))
        ever = ever or bool(now)
        assert state["hold_snapshots"] == (150 <= step < 169)
    assert ever == found


# ---------------------------------------------------------------- LRJump


def rates(*values: float, ratio: float = 0.02) -> list[dict[str, Any]]:
    return [{"lr": lr, "param_norm": np.array([2.0]), "update_ratio": np.array([ratio])} for lr in values]


JUMP = detectors.LRJump(factor=8, update_ratio=0.25, warmup=3)


@pytest.mark.parametrize(
    ("lr", "ratio", "flagged"),
    [
        (8.0, 0.5, False),  # eight times the highest so far
        (8.0 * OVER_ONE, 0.5, True),
        (16.0, 1 / 64, False),  # an update-to-weight ratio of a quarter
        (16.0 * OVER_ONE, 1 / 64, True),
        (math.inf, 0.5, False),
    ],
)
def test_a_jump_of_the_learning_rate(lr: float, ratio: float, flagged: bool) -> None:
    found, state = reported(JUMP, [*rates(1.0, 1.0, 1.0, ratio=ratio), {"lr": lr}])
    assert found == [3] * flagged
    assert state["highest"] == (1.0 if flagged or math.isinf(lr) else lr)


@pytest.mark.parametrize(("before", "flagged"), [(2, False), (3, True)])
def test_a_jump_of_the_learning_rate_is_reported_from_the_first_step_after_warmup(before: int, flagged: bool) -> None:
    assert reported(JUMP, rates(*[1.0] * before, 50.0))[0] == [before] * flagged


def test_the_update_ratio_belongs_to_the_learning_rate_of_the_step_before() -> None:
    steps = [*rates(4.0, 1.0, 1.0), {"lr": 4.0}, *rates(1.0, ratio=0.5), {"lr": 1.0}]
    assert reported(JUMP, steps)[1]["ratio_per_lr"] == 0.5 / 4.0


def test_an_unknown_update_ratio_is_ignored() -> None:
    unknown = {"lr": 1.0, "param_norm": np.zeros(1), "update_ratio": np.array([math.inf])}
    assert reported(JUMP, [*rates(1.0, 1.0, ratio=0.5), unknown, {"lr": 1.0}])[1]["ratio_per_lr"] == 0.5
    assert reported(JUMP, rates(0.0, 0.0, 0.0, 5.0, ratio=0.5))[0] == []  # the first learning rate above zero


def test_a_flagged_learning_rate_does_not_become_the_highest() -> None:
    assert reported(JUMP, [*rates(1.0, 1.0, 1.0), *rates(*[50.0] * 3)])[0] == [3, 4, 5]


# ---------------------------------------------------------------- Overshooting


@pytest.mark.parametrize(
    ("ratio", "several", "flagged"),
    [(3.0, False, False), (3.0 * OVER_ONE, False, True), (2.0, True, False), (2.0 * OVER_ONE, True, True)],
)
def test_an_update_is_too_large_above_the_limit(ratio: float, several: bool, flagged: bool) -> None:
    detector = detectors.Overshooting(limit=3.0, multi_optimizer_limit=2.0)
    sample = dict(param_norm=np.array([1.0]), update_ratio=np.array([ratio]), multiple_optimizers=several)
    assert reported(detector, [sample])[0] == [0] * flagged


def test_layers_with_too_large_an_update_are_named_unknown_ones_first() -> None:
    ratios = np.array([3.0, 30.0, math.inf, 40.0])
    sample = dict(param_norm=np.array([1.0, 1.0, 1.0, 1.0]), update_ratio=ratios)
    stats = GradStats.of(dict.fromkeys("abcd", 1.0), loss=1.0, **sample)
    (finding,) = detectors.Overshooting(limit=3.0).update({}, stats)[1]
    assert finding.layers == ("c", "d", "b")


# ---------------------------------------------------------------- Vanishing

FADING = {f"net.{i}": 10.0 ** (i - 3) for i in range(3)}  # two decades over three layers


def fading(loss: float = 1.0, **fields: Any) -> dict[str, Any]:
    return {"grad_norm": FADING, "loss": loss, **fields}


@pytest.mark.parametrize(("decades", "flagged"), [(1.99, True), (2.01, False)])
def test_gradients_vanish_by_decades_for_patience_steps_of_a_stuck_run(decades: float, flagged: bool) -> None:
    detector = detectors.Vanishing(decades=decades, patience=3, window=10)
    # The window is full and judged on step 9; the third step in a row is 11.
    assert reported(detector, [fading()] * 13)[0] == [11, 12] * flagged


def test_vanishing_gradients_must_last() -> None:
    detector = detectors.Vanishing(patience=3, window=10)
    other = {"grad_norm": dict.fromkeys(FADING, 1.0)}
    assert reported(detector, [*[fading()] * 11, other, *[fading()] * 3])[0] == [14]


def test_vanishing_gradients_are_harmless_while_the_loss_decreases() -> None:
    detector = detectors.Vanishing(patience=3, window=10)
    assert reported(detector, [fading(loss=2 - step / 10) for step in range(15)])[0] == []
    # The later half is below the earlier one by no more than its median deviation (1.2).
    noisy = [4.0, 1.6, 2.8, 4.0, 1.6]
    assert reported(detector, [fading(loss=x) for x in (*noisy, *[1.6] * 5, 1.6, 1.6)])[0] == [11]
    assert reported(detector, [fading(loss=x) for x in (*noisy, *[1.59] * 5, 1.59, 1.59)])[0] == []


def test_the_loss_is_judged_ten_times_per_window() -> None:
    state = reported(detectors.Vanishing(window=40), [fading()] * 40)[1]
    assert not state["stuck"]  # the window is full only on step 39, and judged on steps 36 and 40
    assert reported(detectors.Vanishing(window=40), [fading()] * 41)[1]["stuck"]


@pytest.mark.parametrize(("ratio", "lr", "flagged"), [(1e-7, 0.1, False), (0.99e-7, 0.1, True), (0.0, 0.0, False)])
def test_a_first_layer_that_cannot_move_counts_as_stuck(ratio: float, lr: float, flagged: bool) -> None:
    detector = detectors.Vanishing(patience=3)
    sample = dict(update_ratio=np.array([ratio, 1.0, 1.0]), param_norm=np.ones(3), lr=lr)
    found, _ = reported(detector, [fading(loss=3 - i, **(sample if i == 0 else {})) for i in range(4)])
    assert found == [2, 3] * flagged


def test_only_the_first_layer_is_tested_for_updates_that_are_too_small() -> None:
    sample = dict(update_ratio=np.array([1.0, 0.0, 0.0]), param_norm=np.ones(3))
    assert reported(detectors.Vanishing(patience=1), [fading(**sample)])[0] == []
    assert not reported(detectors.Vanishing(), [{"update_ratio": np.empty(0), "grad_norm": {}}])[1]["frozen"]


@pytest.mark.parametrize("fields", [{"multiple_optimizers": True}, {"loss": None}, {"loss": math.nan}])
def test_vanishing_ignores_a_loss_that_says_nothing(fields: dict[str, Any]) -> None:
    detector = detectors.Vanishing(patience=3, window=10)
    assert reported(detector, [fading(**fields)] * 20)[1] == {**detector.init(), "stuck": False}


def test_the_depth_is_that_of_the_layers_with_a_gradient() -> None:
    rows = {"a": 1e-3, "b": 0.0, "c": 1e-2, "d": 0.1}  # one decade a layer, over two steps of depth
    found, _ = reported(detectors.Vanishing(decades=2.01, patience=1, window=2), [fading(grad_norm=rows)] * 4)
    assert found == []
    found, _ = reported(detectors.Vanishing(decades=1.99, patience=1, window=2), [fading(grad_norm=rows)] * 4)
    assert found == [1, 2, 3]


def test_all_layers_as_small_as_the_limit_are_named() -> None:
    detector, state = detectors.Vanishing(patience=1, window=2), detectors.Vanishing().init()
    for step in range(2):
        state, found = detector.update(state, GradStats.of(FADING, step=step * 2, loss=1.0))
    assert found[0].layers == ("net.0",)


# ---------------------------------------------------------------- Stalled

STALLED = detectors.Stalled(patience=3, converged=0.5)


def test_a_scaler_that_skips_every_step() -> None:
    skip: dict[str, Any] = {"scaler_overflow": True, "grad_norm": {"a": math.inf}}
    assert reported(STALLED, [skip] * 4)[0] == [2, 3]
    assert reported(STALLED, [skip, skip, {}, skip, skip])[0] == []


def test_zero_gradients_in_a_row() -> None:
    zero = norms(0.0)
    assert reported(STALLED, zero * 4)[0] == [2, 3]
    assert reported(STALLED, [*zero * 2, {}, *zero * 2])[0] == []
    assert reported(STALLED, [*zero * 2, {"loss": math.nan}, *zero])[0] == [3]  # such a step does not count
    assert reported(STALLED, [{"lr": 0.0, **zero[0]}] * 9)[0] == []
    assert reported(STALLED, [{"grad_norm": {}}] * 9)[0] == []  # an optimizer without parameters


@pytest.mark.parametrize(("loss", "flagged"), [(0.5, True), (0.49, False), (-0.49, False)])
def test_a_run_that_has_converged_may_stall(loss: float, flagged: bool) -> None:
    found, _ = reported(STALLED, [{"loss": 1.0}, *norms(0.0, 0.0, 0.0, loss=loss)])
    assert found == [3] * flagged


def test_the_size_of_a_loss_below_zero_counts() -> None:
    assert reported(STALLED, [{"loss": -1.0}, *norms(0.0, 0.0, 0.0, loss=-1.0)])[0] == [3]
    assert reported(STALLED, [{"loss": -4.0}, *norms(0.0, 0.0, 0.0, loss=-1.9)])[0] == []
    assert reported(STALLED, [{"loss": None}, *[{"loss": None, "grad_norm": {"a": 0.0}}] * 3])[0] == [3]
    assert reported(STALLED, [{"loss": 1.0}, *[{"loss": None, "grad_norm": {"a": 0.0}}] * 3])[0] == [3]


#: Such that ratios are exact.
EPS = 2.0**-27


@pytest.mark.parametrize(
    ("ratios", "eps", "flagged"),
    [
        ((29.0, 1.0, 29.9, 29.9), EPS, [2, 3]),
        ((1.0, 1.0, 30.0, 1.0), EPS, []),  # once large enough, later ones may be small: the run has converged
        ((30.0, 1.0, 1.0, 1.0), EPS, []),
        ((1.0, 1.0, 1.0, 31.0, 1.0), EPS, [2]),
        ((1.0, 0.0, 1.0, 0.0, 1.0), EPS, [4]),
        ((1.0,) * 4, 1e-6, [2, 3]),
        ((1.0,) * 4, 1.1e-6, []),  # such an eps was chosen
        ((1.0,) * 4, 0.0, []),
    ],
)
def test_gradients_that_eps_outweighs_from_the_first_step_on(
    ratios: tuple[float, ...], eps: float, flagged: list[int]
) -> None:
    steps = [{"grad_norm": {"a": ratio * (eps or EPS), "b": 0.0}, "eps": eps} for ratio in ratios]
    assert reported(STALLED, steps)[0] == flagged


def test_the_layer_with_the_largest_rms_gradient_counts() -> None:
    state = {**STALLED.init(), "small_gradients": 2}
    stats = GradStats.of({"a": 4e-7, "b": 3e-7}, numel=4, loss=1.0, eps=1e-8)
    (finding,) = STALLED.update(state, stats)[1]
    assert (finding.value, finding.limit) == (pytest.approx(20.0), 30.0)
    assert finding.detail == "RMS gradient has never been above 20 times the optimizer's eps of 1e-08 (limit 30)"
    assert (
        STALLED.advise(finding, stats) == "multiply the loss by about 2e+00, or set the optimizer's eps to about 7e-09"
    )


@pytest.mark.parametrize(("total", "limit"), [(20, 3), (49, 4), (None, 500)])
def test_a_learning_rate_of_zero_for_a_tenth_of_the_steps(total: int | None, limit: int) -> None:
    zero = {"lr": 0.0, "total_steps": total}
    assert reported(STALLED, [zero] * (limit + 1))[0] == [limit - 1, limit]
    assert reported(STALLED, [*[zero] * (limit - 1), {"total_steps": total}, zero])[0] == []
    state = {**STALLED.init(), "zero_lr": limit - 1}
    (finding,) = STALLED.update(state, GradStats.of({"a": 1.0}, loss=1.0, **zero))[1]
    assert (finding.value, finding.limit) == (limit, limit)
    assert finding.detail == f"learning rate is zero for {limit} steps in a row (limit {limit})"


def test_updates_that_are_lost_in_rounding() -> None:
    some = {"grad_norm": {"a": 1.0, "b": 1.0}, "param_norm": np.ones(2), "update_ratio": np.array([0.0, 1.0])}
    assert reported(STALLED, [some] * 4)[0] == []

    def sample(ratio: float, **fields: Any) -> dict[str, Any]:
        return {"param_norm": np.ones(1), "update_ratio": np.array([ratio]), **fields}

    assert reported(STALLED, [sample(0.0), {}, sample(0.0), {}])[0] == [2, 3]
    assert reported(STALLED, [sample(0.0), sample(1.0), sample(0.0)])[0] == []
    assert reported(STALLED, [sample(0.0, lr=0.0)] * 4)[0] == []
    assert reported(STALLED, [sample(0.0, grad_norm={"a": 0.0})] * 2)[0] == []


# ---------------------------------------------------------------- Oscillating


def swings(count: int, size: float = 1.0, start: float = 1.5) -> list[float]:
    """A loss that stays at `start` for 20 steps and then swings `count` times between 1 and 1 + `size`."""
    return [start] * 20 + [1.0 + size * (i % 2) for i in range(count + 1) for _ in range(10)]


@pytest.mark.parametrize(("count", "flagged"), [(4, False), (5, True)])
def test_a_number_of_swings_is_an_oscillation(count: int, flagged: bool) -> None:
    steps = losses(*[*swings(count), *[1.5] * 70][:140])
    # The window is full on step 99; on step 129 the first of the levels has left it.
    assert reported(detectors.Oscillating(), steps)[0] == list(range(99, 129)) * flagged


@pytest.mark.parametrize(("size", "flagged"), [(0.5, False), (0.51, True)])
def test_swings_are_compared_with_the_progress(size: float, flagged: bool) -> None:
    around_zero = [loss - 1 for loss in swings(9, size, start=2.0)]  # progress of 1, median loss of at most `size`
    assert bool(reported(detectors.Oscillating(), losses(*around_zero))[0]) == flagged


def test_the_progress_is_measured_from_the_median_of_the_first_twenty_losses() -> None:
    first = [2.0] * 10 + [0.0] * 10  # a median of 1; one loss more and it would be 0
    steps = losses(*first, *[loss - 1 for loss in swings(9, 0.5)[20:]])
    assert reported(detectors.Oscillating(), steps)[0] == []


@pytest.mark.parametrize("offset", [10.0, -12.0])
def test_swings_are_compared_with_the_loss(offset: float) -> None:
    assert reported(detectors.Oscillating(), losses(*[loss + offset for loss in swings(9)]))[0] == []


@pytest.mark.parametrize(("noise", "flagged"), [(0.3, True), (0.4, False)])
def test_swings_are_compared_with_the_noise(noise: float, flagged: bool) -> None:
    noisy = [loss + noise * (i % 5 == 0) for i, loss in enumerate(swings(9))]
    assert bool(reported(detectors.Oscillating(), losses(*noisy))[0]) == flagged


@pytest.mark.parametrize(
    ("low", "high", "count"), [(1.25, 1.75, 1), (1.24, 1.76, 17), (1.25, 1.76, 1), (1.24, 1.75, 2)]
)
def test_only_swings_between_the_outer_quarters_of_the_range_count(low: float, high: float, count: int) -> None:
    steps = [1.5] * 20 + [1.0] * 10 + [2.0] * 10 + [*[low] * 5, *[high] * 5] * 8
    assert reported(detectors.Oscillating(), losses(*steps[:120]))[1]["count"] == count


# ---------------------------------------------------------------- NonFinite


@pytest.mark.parametrize(
    ("fields", "layers", "detail"),
    [
        ({"loss": math.nan}, (), "loss is nan"),
        ({"grad_norm": {"a": 1.0, "b": math.inf}}, ("b",), "gradient is not finite"),
        ({"grad_norm": {"a": math.inf}, "scaler_overflow": True}, None, ""),
        ({"buffers": ("var",), "buffer_norm": np.array([math.nan])}, ("var",), "buffer is not finite"),
        (
            {"buffers": ("var",), "buffer_norm": np.array([math.nan]), "loss": math.inf},
            (),
            "loss is inf, buffer is not finite",
        ),
        ({"loss": None}, None, ""),
        ({}, None, ""),
        ({"buffers": ("mean", "var"), "buffer_norm": np.array([1.0, math.inf])}, ("var",), "buffer is not finite"),
        ({"grad_norm": {"a": math.inf}, "scaler_overflow": True, "loss": math.nan}, (), "loss is nan"),
    ],
)
def test_what_is_not_finite_is_named(fields: dict[str, Any], layers: Any, detail: str) -> None:
    stats = GradStats.of(**{"grad_norm": {"a": 1.0}, "loss": 1.0, **fields})
    found = detectors.NonFinite().update({}, stats)[1]
    assert [(f.layers, f.detail) for f in found] == ([] if layers is None else [(layers, detail)])
    assert all(repr(f.value) == (repr(stats.loss) if "loss" in detail else "nan") for f in found)


# ---------------------------------------------------------------- BadBatch

BAD = detectors.BadBatch(limit=100.0, factor=10.0, warmup=3, patience=4)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"grad_norm": {"a": 10.0}}, False),
        ({"grad_norm": {"a": 10.0 * OVER_ONE}}, True),
        ({"loss": 10.0}, False),
        ({"loss": -10.0 * OVER_ONE}, True),
        ({"loss": math.nan}, True),
        ({"loss": math.nan, "scaler_overflow": True}, False),
        ({"loss": None}, False),
    ],
)
def test_a_step_is_suspicious_far_above_all_before(fields: dict[str, Any], wanted: bool) -> None:
    _, state = reported(BAD, [{}] * 3)
    stats = GradStats.of(**{"grad_norm": {"a": 1.0}, "loss": 1.0, **fields})
    assert BAD.wants_batch_stats(state, stats) == wanted


def test_only_what_is_not_finite_is_suspicious_during_warmup() -> None:
    _, state = reported(BAD, [{}] * 2)
    assert not BAD.wants_batch_stats(state, GradStats.of({"a": 99.0}, loss=1.0))
    assert BAD.wants_batch_stats(state, GradStats.of({"a": math.nan}, loss=1.0))


@pytest.mark.parametrize(("size", "flagged"), [(100.0, False), (100.0 * OVER_ONE, True), (math.inf, True)])
def test_a_sample_is_bad_above_the_limit(size: float, flagged: bool) -> None:
    step = {"grad_norm": {"a": 50.0}, "batch_stats": BatchStats(np.array([1.0, size]))}
    found, state = reported(BAD, [*[{}] * 3, step])
    assert found == [3] * flagged
    assert (state["norm"], state["suspicious"]) == (1.0, 0 if flagged else 1)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_a_suspicious_step_is_relative_to_the_run(scale: float) -> None:
    _, state = reported(BAD, [*norms(scale, scale, scale, loss=-scale)])
    assert BAD.wants_batch_stats(state, GradStats.of({"a": 11 * scale}, loss=scale))
    assert BAD.wants_batch_stats(state, GradStats.of({"a": scale}, loss=11 * scale))
    assert not BAD.wants_batch_stats(state, GradStats.of({"a": 9 * scale}, loss=9 * scale))
    assert not BAD.wants_batch_stats(state, GradStats.of({"a": 9 * scale}, loss=None))


def test_nothing_is_suspicious_above_zero() -> None:
    _, state = reported(BAD, [{"grad_norm": {"a": 0.0}, "loss": None}] * 3)
    assert not BAD.wants_batch_stats(state, GradStats.of({"a": 1.0}, loss=1.0))
    assert reported(BAD, [{"scaler_overflow": True}] * 3)[1] == BAD.init()


@pytest.mark.parametrize(
    ("sizes", "detail"),
    [
        ((1.0, math.nan), "sample 1 of the batch contains NaN"),
        ((math.nan, math.nan, 1.0), "samples 0 and 1 of the batch contain NaN"),
        ((1.0, 1.0, math.inf), "sample 2 of the batch contains Inf"),
        ((math.inf, math.nan, 1.0), "samples 0 and 1 of the batch contain NaN or Inf"),
        ((math.nan, math.nan), "all 2 samples of the batch contain NaN"),
        ((math.inf,), "sample 0 of the batch contains Inf"),
        ((1.0, 200.0), "sample 1 of the batch is 200 times as large as the median sample (limit 100 times)"),
        (
            (1.0, 200.0, 300.0),
            "samples 1 and 2 of the batch are up to 300 times as large as the median sample (limit 100 times)",
        ),
    ],
)
def test_how_bad_samples_are_described(sizes: tuple[float, ...], detail: str) -> None:
    stats = GradStats.of({"a": math.nan}, loss=1.0, batch_stats=BatchStats(np.array(sizes)))
    assert [f.detail for f in BAD.update(BAD.init(), stats)[1]] == [detail]


@pytest.mark.parametrize(
    ("fields", "origin"),
    [
        ({}, ""),
        ({"micro_batch": 0, "micro_batches": 1}, ""),
        ({"micro_batch": -1, "micro_batches": 4}, ""),
        ({"micro_batch": 0, "micro_batches": 2}, " (micro-batch 1 of 2)"),
        ({"process": 0}, " (process 0)"),
        ({"indices": (7, 8)}, " (8 in the dataset)"),
    ],
)
def test_how_the_origin_of_bad_samples_is_described(fields: dict[str, Any], origin: str) -> None:
    assert describe_samples(np.array([False, True]), BatchStats(**fields)) == f"sample 1 of the batch{origin}"


@pytest.mark.parametrize(("count", "accepted"), [(3, False), (4, True)])
def test_a_level_without_a_bad_sample_is_accepted_after_patience_steps(count: int, accepted: bool) -> None:
    step = {"grad_norm": {"a": 50.0}, "batch_stats": BatchStats(np.ones(2))}
    _, state = reported(BAD, [*[{}] * 3, *[step] * count])
    assert (state["norm"] == 50.0) == accepted
    broken = {"grad_norm": {"a": math.nan}, "batch_stats": BatchStats(np.ones(2))}
    assert reported(BAD, [*[{}] * 3, *[broken] * 9])[1]["steps"] == 3  # what is not finite is never accepted


def test_suspicious_steps_are_counted_in_a_row() -> None:
    step = {"grad_norm": {"a": 50.0}, "batch_stats": BatchStats(np.ones(2))}
    assert reported(BAD, [*[{}] * 3, step, step, {}, step])[1]["suspicious"] == 1


@pytest.mark.parametrize(("micro_batch", "flagged"), [(1, True), (0, True), (-1, False)])
def test_a_micro_batch_that_is_gone_is_named(micro_batch: int, flagged: bool) -> None:
    step = {"loss": math.nan, "batch_stats": BatchStats(micro_batch=micro_batch, micro_batches=4)}
    assert reported(BAD, [step])[0] == [0] * flagged
    assert reported(BAD, [{"loss": math.nan}])[0] == []


# ---------------------------------------------------------------- Unused


def spare(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Steps on which layer `b` receives no gradient."""
    first = {"trainable": np.array([True, True])}
    return [{"grad_norm": {"a": 1.0, "b": 0.0}, **(first if i == 0 else {}), **fields} for i in range(count)]


@pytest.mark.parametrize(("total", "first"), [(None, 49), (600, 49), (499, 48), (300, 29), (100, 19)])
def test_a_layer_is_unused_after_a_number_of_steps(total: int | None, first: int) -> None:
    found, _ = reported(detectors.Unused(steps=50, min_steps=20), spare(60, total_steps=total))
    assert found == list(range(first, 60))


def test_one_gradient_ends_the_count_for_good() -> None:
    used = {"grad_norm": {"a": 1.0, "b": 1e-30}}
    assert reported(detectors.Unused(steps=5, min_steps=5), [*spare(4), used, *spare(40)])[0] == []


def test_a_step_on_which_no_layer_has_a_gradient_is_not_reported() -> None:
    nothing = {"grad_norm": {"a": 0.0, "b": 0.0}}
    found, _ = reported(detectors.Unused(steps=5, min_steps=5), [*spare(5), nothing, *spare(1)])
    assert found == [4, 6]


def test_a_frozen_layer_is_counted_from_the_step_on_which_it_is_unfrozen() -> None:
    frozen, free = np.array([True, False]), np.array([True, True])
    steps = [*spare(1, trainable=frozen), *spare(9)[1:], *spare(1, trainable=free), *spare(9)[1:]]
    assert reported(detectors.Unused(steps=5, min_steps=5), steps)[0][0] == 9 + 4


def test_which_layers_are_frozen_must_be_known() -> None:
    detector = detectors.Unused(steps=5, min_steps=5)
    assert reported(detector, [{"grad_norm": {"a": 1.0, "b": 0.0}}] * 9)[0] == []
    assert reported(detector, spare(9, trainable=np.array([True, True])))[0] == [4, 5, 6, 7, 8]


def test_a_repaired_model_keeps_the_counts() -> None:
    detector = detectors.Unused()
    _, state = reported(detector, spare(9))
    assert detector.renew(state, improved=True) is state


def test_a_sample_without_a_gradient_of_zero_leaves_the_counts() -> None:
    sample = ActivationStats(layers=("a",), grad_rms=np.array([1.0]))
    found, state = reported(detectors.Unused(steps=5, min_steps=5), spare(6, activation_stats=sample))
    assert (found, state["used"], state["missed"].tolist()) == ([4, 5], False, [-1.0, 6.0])


def test_a_layer_behind_a_gradient_of_zero_is_not_counted() -> None:
    blocked = ActivationStats(layers=("a", "b"), grad_rms=np.array([0.0, math.nan]))
    steps = [*spare(4), *spare(1, activation_stats=blocked), *spare(5)[1:], *spare(1)]
    assert reported(detectors.Unused(steps=5, min_steps=5), steps)[0] == [9]


# ---------------------------------------------------------------- activation detectors


def samples(count: int, trend: LossTrend = STUCK, **fields: Any) -> list[dict[str, Any]]:
    """Steps of a stuck run, each with the same activation statistics."""
    return [{"loss_trend": trend, "activation_stats": ActivationStats(**fields)}] * count


TRAITS = {"relu": Traits(one_sided=True), "tanh": Traits(saturating=True)}


def record(kind: str = "relu", layer: str = "a", flat: float = 1.0, dead: Sequence[int] = (1,) * 8) -> ActivationRecord:
    return ActivationRecord(layer, kind, flat, np.array(dead, bool), 10, traits=TRAITS[kind])


DEAD = {"layers": ("a", "b"), "activations": (record(),)}


@pytest.mark.parametrize(("trend", "flagged"), [(STUCK, True), (REGRESSING, True), (LossTrend(blocks=9), False)])
def test_activation_statistics_count_only_while_the_run_is_stuck_or_regressing(trend: LossTrend, flagged: bool) -> None:
    found, state = reported(detectors.DeadUnits(patience=1, rows=1), samples(1, trend, **DEAD))
    assert found == [0] * flagged
    assert state  # it is observed all the same
    found, _ = reported(detectors.DeadUnits(patience=1, rows=1), [*samples(1, **DEAD), {"loss_trend": STUCK}])
    assert found == [0, 1]


@pytest.mark.parametrize(("dead", "flagged"), [(6, True), (5, False)])
def test_a_share_of_the_units_is_dead(dead: int, flagged: bool) -> None:
    detector = detectors.DeadUnits(share=0.75, patience=1, rows=1)
    units = record(dead=[1] * dead + [0] * (8 - dead))
    assert reported(detector, samples(1, layers=("a", "b"), activations=(units,)))[0] == [0] * flagged


def test_units_are_dead_for_patience_samples_and_enough_rows() -> None:
    assert reported(detectors.DeadUnits(patience=3, rows=1), samples(4, **DEAD))[0] == [2, 3]
    assert reported(detectors.DeadUnits(patience=1, rows=30), samples(4, **DEAD))[0] == [2, 3]
    assert reported(detectors.DeadUnits(patience=1, rows=31), samples(4, **DEAD))[0] == [3]
    awake = samples(1, layers=("a", "b"), activations=(record(dead=[0] * 8),))
    assert reported(detectors.DeadUnits(patience=3, rows=1), [*samples(2, **DEAD), *awake, *samples(3, **DEAD)])[0] == [
        5
    ]
    other = samples(1, layers=("a", "b"), activations=(record(kind="tanh"),))
    assert reported(detectors.DeadUnits(patience=1, rows=1), other)[0] == []


def test_units_that_become_active_again_start_over() -> None:
    awake = samples(1, layers=("a", "b"), activations=(record(dead=[0] * 8),))
    steps = [*samples(1, **DEAD), *awake, *samples(3, **DEAD)]
    assert reported(detectors.DeadUnits(patience=1, rows=21), steps)[0] == [4]
    fewer = samples(3, layers=("a", "b"), activations=(record(dead=[1] * 4),))
    assert reported(detectors.DeadUnits(patience=3, rows=1), [*samples(2, **DEAD), *fewer])[0] == [4]


def test_for_how_many_samples_units_were_inactive() -> None:
    awake, half = record(dead=[0] * 8), record(dead=[1] * 4 + [0] * 4)
    first = samples(1, layers=("a", "b", "c"), activations=(awake, half, record(layer="b", dead=[0] * 8)))
    later = samples(2, layers=("a", "b", "c"), activations=(record(), record(), record(layer="b")))
    detector, state = detectors.DeadUnits(patience=2, rows=1), {}
    for step in (*first, *later):
        state, found = detector.update(state, GradStats.of({"a": 1.0}, loss=1.0, **step))
    # Of both activations of `a` the longest of any unit: 20 and 30; the smaller one holds for all.
    assert found[0].detail == "100 % of the units were inactive for 20 samples (limit 90 %)"
    worst = samples(1, layers=("a", "b", "c"), activations=(record(), record(layer="b", dead=[1] * 7 + [0])))
    (finding,) = detectors.DeadUnits(share=0.5, patience=1, rows=1).update({}, GradStats.of({"a": 1.0}, **worst[0]))[1]
    assert finding.layers == ("a", "b")


def test_the_worst_activation_of_a_layer_counts_and_the_worst_layer_comes_first() -> None:
    some, most = record(dead=[1] * 7 + [0]), record(dead=[0] * 8)
    fields = dict(layers=("a", "b", "c"), activations=(some, most, record(layer="b")))
    detector, state = detectors.DeadUnits(share=0.8, patience=1, rows=1), {}
    stats = GradStats.of({"a": 1.0}, loss=1.0, **samples(1, **fields)[0])
    (finding,) = detector.update(state, stats)[1]
    assert (finding.layers, finding.value) == (("b", "a"), 1.0)


@pytest.mark.parametrize(("flat", "flagged"), [(0.75, True), (0.74, False)])
def test_an_activation_is_saturated_from_its_share_on(flat: float, flagged: bool) -> None:
    detector = detectors.Saturated(share=0.75, patience=2)
    fields = dict(layers=("a", "b"), activations=(record("tanh", flat=flat),))
    assert reported(detector, samples(3, **fields))[0] == [1, 2] * flagged


def test_saturation_must_last_in_a_hidden_layer_with_two_flat_sides() -> None:
    detector = detectors.Saturated(patience=2)
    flat, fine = ({"layers": ("a", "b"), "activations": (record("tanh", flat=x),)} for x in (1.0, 0.5))
    assert reported(detector, [*samples(1, **flat), *samples(1, **fine), *samples(2, **flat)])[0] == [3]
    assert reported(detector, samples(3, layers=("b", "a"), activations=(record("tanh"),)))[0] == []  # the output layer
    assert reported(detector, samples(3, layers=("a", "b"), activations=(record("relu"),)))[0] == []


def test_the_most_saturated_activation_of_each_layer_counts() -> None:
    records = [record("tanh", layer, flat) for layer, flat in (("a", 1.0), ("a", 0.5), ("b", 0.95), ("c", 1.0))]
    stats = GradStats.of({"a": 1.0}, **samples(1, layers=("a", "b", "c"), activations=tuple(records))[0])
    (finding,) = detectors.Saturated(patience=1).update({}, stats)[1]
    assert (finding.layers, finding.value) == (("a", "b"), 1.0)
    records = [record("tanh", layer, flat) for layer, flat in (("a", 1.0), ("b", 0.5))]
    stats = GradStats.of({"a": 1.0}, **samples(1, layers=("a", "b", "c"), activations=tuple(records))[0])
    (finding,) = detectors.Saturated(patience=1).update({}, stats)[1]
    assert finding.layers == ("a",)


def test_the_most_constant_layer_gives_the_number() -> None:
    fields = dict(layers=("a", "b", "c"), spread=np.array([1e-4, 1e-6, 1.0]))
    (finding,) = detectors.Collapsed(patience=1).update({}, GradStats.of({"a": 1.0}, **samples(1, **fields)[0]))[1]
    assert (finding.layers, finding.value) == (("a", "b"), 1e-6)


@pytest.mark.parametrize(("spread", "flagged"), [(0.005, False), (0.00499, True)])
def test_a_layer_is_collapsed_below_its_spread(spread: float, flagged: bool) -> None:
    fields = dict(layers=("a", "b"), spread=np.array([spread, 1.0]))
    assert reported(detectors.Collapsed(patience=2), samples(3, **fields))[0] == [1, 2] * flagged


def test_a_collapse_must_last_and_reach_the_last_layer() -> None:
    same, other = ({"layers": ("a", "b"), "spread": np.array([x, 1.0])} for x in (1e-6, 1.0))
    steps = [*samples(1, **same), *samples(1, **other), *samples(2, **same)]
    assert reported(detectors.Collapsed(patience=2), steps)[0] == [3]
    around = samples(3, **same, last_input_spread=0.005)  # a residual connection
    assert reported(detectors.Collapsed(patience=1), around)[0] == []
    assert (
        reported(detectors.Collapsed(patience=1), samples(1, layers=("a", "b"), spread=np.array([1.0, 1e-6])))[0] == []
    )


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("decades", "flagged"), [(3.0, True), (2.99, False)])
def test_gradients_change_by_decades_through_time(sign: int, decades: float, flagged: bool) -> None:
    cls = detectors.ExplodingThroughTime if sign > 0 else detectors.VanishingThroughTime
    gradient = 10.0 ** np.array([sign * decades, 0.0, 0.0, 0.0])
    detector = cls(decades=3.0, patience=2)
    assert reported(detector, samples(3, time={"rnn": gradient}))[0] == [1, 2] * flagged
    even = samples(1, time={"rnn": np.ones(4)})
    steps = [*samples(1, time={"rnn": gradient}), *even, *samples(1, time={"rnn": gradient})]
    assert reported(detector, steps)[0] == []


def test_the_recurrent_layer_with_the_largest_change_comes_first() -> None:
    time = {"one": np.array([1e4, 1.0, 1.0, 1.0]), "two": np.array([1e6, 1.0, 1.0, 1.0])}
    detector, state = detectors.ExplodingThroughTime(patience=2), {}
    for step in samples(2, time=time):
        state, found = detector.update(state, GradStats.of({"a": 1.0}, **step))
    assert [(f.layers, f.value) for f in found] == [(("two", "one"), 6.0)]


@pytest.mark.parametrize(("mean", "flagged"), [(4.0, False), (4.01, True)])
def test_a_feature_is_unnormalized_above_the_limit(mean: float, flagged: bool) -> None:
    fields = dict(layers=("a",), input_mean=np.array([0.0, mean]), input_std=np.array([1.0, 3.0]))
    assert reported(detectors.UnnormalizedInput(limit=5.0), samples(1, **fields))[0] == [0] * flagged


def test_only_the_first_finite_inputs_count() -> None:
    inputs = [dict(layers=("a",), input_mean=np.array([x]), input_std=np.ones(1)) for x in (math.nan, 1.0, 99.0)]
    steps = list(chain.from_iterable(samples(1, **fields) for fields in inputs))
    assert reported(detectors.UnnormalizedInput(), steps)[1]["rms"] == pytest.approx(math.sqrt(2))


# ---------------------------------------------------------------- PoorInitialization


def initial(rms: Sequence[float], spread: float = 1.0, identical: float = 0.0, std: float = 1.0) -> dict[str, Any]:
    count = len(rms)
    return dict(
        layers=tuple("abcd"[:count]), output_rms=np.array(rms), spread=np.full(count, spread),
        identical_units=np.full(count, identical), input_std=np.array([std]),
    )  # fmt: skip


HEALTHY = LossTrend(blocks=9)
POOR = detectors.PoorInitialization(decades=4.0)


@pytest.mark.parametrize(
    ("fields", "at_once", "when_stuck"),
    [
        (initial([1.0, 1e4]), True, True),
        (initial([1.0, 0.99e4]), False, False),
        (initial([1.0, math.inf]), True, True),
        (initial([1.0, 1e4], std=math.inf), False, False),  # the input itself overflows
        (initial([1.0, 1e-4]), False, True),
        (initial([1.0, 1.01e-4]), False, False),
        (initial([1.0, 1.0], spread=0.00499), False, True),
        (initial([1.0, 1.0], spread=0.005), False, False),
        (initial([1.0, 1.0], identical=1.0), False, True),
        (initial([0.0, 1.0], identical=1.0), False, False),  # a branch that is initialized to zero
        (initial([1.0, 1.0]), False, False),
    ],
)
def test_initial_weights(fields: dict[str, Any], at_once: bool, when_stuck: bool) -> None:
    first = samples(1, HEALTHY, **fields)
    assert reported(POOR, [*first, *repeat({}, 3)])[0] == [0] * at_once
    assert reported(POOR, [*first, {}, {"loss_trend": STUCK}])[0] == [0] * at_once + [2] * when_stuck


def test_only_the_first_sample_shows_the_initial_weights() -> None:
    fine, poor = samples(1, **initial([1.0, 1.0])), samples(1, **initial([1.0, 1e8]))
    assert reported(POOR, [*fine, *poor])[0] == []
    detector = detectors.PoorInitialization()
    _, state = reported(detector, poor)
    assert not detector.update(detector.renew(state, improved=False), GradStats.of({"a": 1.0}, **poor[0]))[1]


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        (initial([2.0, 2.0, 2e2, 2e4]), ("d", "c")),
        (initial([2.0, 2.0, 1.99e-2, 2e-4]), ("d", "c")),
        (initial([2.0, 2.0, 2e-2, 2e-4]), ("d",)),
        (initial([2.0, 1.0, 1.5e-2, 2e-4]), ("d", "c")),
        (initial([1.0, 1.0, 1.0], spread=1e-6), ("b", "a")),
        (initial([1.0, 1.0, 1.0], identical=1.0), ("b", "a")),
        (initial([1.0], identical=1.0), ("a",)),
    ],
)
def test_the_deepest_layer_with_poor_weights_comes_first(fields: dict[str, Any], layers: tuple[str, ...]) -> None:
    (finding,) = POOR.update({}, GradStats.of({"a": 1.0}, loss=1.0, **samples(1, **fields)[0]))[1][:1]
    assert finding.layers == layers


def test_if_no_layer_stands_out_the_last_is_named() -> None:
    growing = samples(1, **initial([1.0, 2.0, 31.7]))
    (finding,) = detectors.PoorInitialization(decades=1.5).update({}, GradStats.of({"a": 1.0}, **growing[0]))[1]
    assert finding.layers == ("c",)


@pytest.mark.parametrize(
    ("fields", "value", "limit"),
    [
        (initial([1.0, 1e5]), 5.0, 4.0),
        (initial([1.0, 1e-5]), 5.0, 4.0),
        (initial([1.0, 1.0], spread=1e-6), 1e-6, 0.005),
        (initial([1.0, 1.0, 1.0], identical=1.0), 2.0, 0.0),
    ],
)
def test_the_numbers_of_initial_weights(fields: dict[str, Any], value: float, limit: float) -> None:
    found = POOR.update({}, GradStats.of({"a": 1.0}, loss=1.0, **samples(1, **fields)[0]))[1]
    assert (found[0].value, found[0].limit) == (pytest.approx(value), limit)


# ---------------------------------------------------------------- NoProgress and Diverging


def never(blocks: int, **fields: Any) -> dict[str, Any]:
    return {"loss_trend": LossTrend(blocks=blocks, is_stuck=True, never_decreased=True), **fields}


def test_a_loss_that_never_decreased_is_reported_after_13_blocks() -> None:
    detector = detectors.NoProgress()
    assert reported(detector, [never(12), never(13), {"loss_trend": LossTrend(blocks=50, is_stuck=True)}])[0] == [1]
    assert reported(detector, [never(13, loss=None), never(13, grad_norm={"a": 0.0})])[0] == []


@pytest.mark.parametrize(
    ("ratios", "lr", "total", "flagged"),
    [
        ((0.002,), 0.1, 100, True),  # all updates together: 0.2 of the weights
        ((0.003,), 0.1, 100, False),
        ((0.002, 0.004, 0.001), 0.1, 100, False),  # the largest counts
        ((0.002,), 0.0, 100, False),  # no step was taken
        ((0.002,), 0.1, None, False),
        ((), 0.1, 100, False),
    ],
)
def test_updates_that_are_too_small_are_reported_early(
    ratios: tuple[float, ...], lr: float, total: int | None, flagged: bool
) -> None:
    steps = [{"param_norm": np.ones(1), "update_ratio": np.array([x]), "lr": lr} for x in ratios]
    found, _ = reported(detectors.NoProgress(travel=0.3), [*steps, never(5, total_steps=total)])
    assert found == [len(steps)] * flagged


@pytest.mark.parametrize(("total", "after"), [(1000, "26 % of the planned steps"), (None, "260 steps")])
def test_how_long_there_was_no_progress(total: int | None, after: str) -> None:
    stats = GradStats.of({"a": 1.0}, step=259, loss=1.0, total_steps=total, **never(13))
    (finding,) = detectors.NoProgress().update({"ratio": None}, stats)[1]
    assert finding.detail == f"loss has not decreased after {after}"
    assert (finding.value, finding.limit) == (0.26, 0.26)


@pytest.mark.parametrize(("above", "limit", "where"), [(True, 2.0, "on the first step"), (False, 0.5, "at its best")])
def test_a_diverging_loss_is_compared_with_its_start_or_its_best(above: bool, limit: float, where: str) -> None:
    trend = LossTrend(is_regressing=True, above_start=above, start=2.0, best=0.5, last=9.0)
    stats = GradStats.of({"a": 1.0}, loss=9.0, loss_trend=trend)
    (finding,) = detectors.Diverging().update({}, stats)[1]
    assert (finding.value, finding.limit) == (9.0, limit)
    assert finding.detail == f"mean loss is 9, up from {limit} {where}".replace("2.0", "2")
    assert reported(detectors.Diverging(), [{"loss_trend": STUCK}, {"loss_trend": trend, "loss": None}])[0] == []
