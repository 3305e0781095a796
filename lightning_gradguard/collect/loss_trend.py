"""COLLECT: whether the loss of a run makes progress.

Many healthy runs have a saturated layer or a signal that fades over depth, which harms nothing while the loss
decreases. Detectors of such symptoms therefore report them only when the run is stuck or regressing. The losses are
followed once a step for all detectors, which read the outcome as `GradStats.loss_trend`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_gradguard.collect.activation_stats import MIN_SPREAD

if TYPE_CHECKING:
    from lightning_gradguard.collect.activation_stats import ActivationStats

#: Steps assumed for a run whose length is unknown. Chosen, not measured.
DEFAULT_TOTAL_STEPS = 5000

#: The planned steps are divided into this many blocks, each of `MIN_BLOCK` to `MAX_BLOCK` steps. Chosen, not measured.
BLOCKS, MIN_BLOCK, MAX_BLOCK = 50, 4, 500
#: Blocks after which a run must have made progress: 10 % of the planned steps when a detector sees a cause, 26 % when
#: none does. The slowest of the public healthy runs had lost 5 % of its loss after 20 % of its steps.
STUCK_AFTER, NO_PROGRESS_AFTER = 5, 13
#: A loss below this share of the first one cannot be stuck. It is small because a classifier on unscaled inputs that
#: only reduces extreme initial predictions reaches 1/300 of its first loss without having learned anything
#: (`python benchmarks/repair`). Chosen, not measured.
NEAR_ZERO = 1e-4
#: Part of the first loss that must be gone before a flat loss may mean convergence. Chosen, not measured.
LEARNED_DROP = 0.3


class LossTrend(NamedTuple):
    """What the losses of a run show so far.

    Args:
        blocks: Number of completed blocks of steps.
        is_stuck: At least `STUCK_AFTER` blocks are complete, the loss is flat or has never decreased, and the run has
            not converged: it has not learned anything yet, or a hidden layer returns the same output for all samples.
        is_regressing: The loss is above its start, or most of the progress is lost and does not come back.
        above_start: The loss is at least 50 % above the first one, beyond the scatter between batches.
        never_decreased: After `STUCK_AFTER` blocks the loss has never been below the first steps beyond chance, and is
            not 10 % below the first block.
        start: The first loss.
        best: The lowest mean of a block.
        last: The mean of the last block.
    """

    blocks: int = 0
    is_stuck: bool = False
    is_regressing: bool = False
    above_start: bool = False
    never_decreased: bool = False
    start: float = math.nan
    best: float = math.nan
    last: float = math.nan


#: Before the first block is complete.
NO_TREND = LossTrend()

#: All that is kept of the losses: numbers and lists of numbers.
State = dict[str, Any]

#: Key of this state among the detectors' states.
LOSS_TREND = "loss_trend"
#: Before the first loss.
INITIAL: State = {
    "size": 0, "lr": 0.0, "start": None, "first": [0, 0.0, 0.0], "block": [0, 0.0, 0.0], "means": [], "errors": [],
    "lost": [], "decreased": False, "signal_lost": False, "trend": NO_TREND,
}  # fmt: skip


def follow(
    state: State,
    loss: float | None,
    lr: float = math.nan,
    total_steps: int | None = None,
    activation_stats: ActivationStats | None = None,
) -> State:
    """The state after one more step; a loss that is missing or not finite is ignored.

    Args:
        state: The state before; `INITIAL` at first.
        loss: The step's loss; None when it is not what this optimizer minimizes.
        lr: The step's largest learning rate: while it increases (warmup), earlier blocks are discarded.
        total_steps: Planned optimizer steps; None when unknown.
        activation_stats: The step's activation statistics, on steps where they were measured.

    Example:
        >>> state = INITIAL
        >>> for step in range(300):
        ...     state = follow(state, loss=2.3, total_steps=1000)
        >>> judge(state).blocks, judge(state).never_decreased, judge(state).is_stuck
        (15, True, True)
    """
    if activation_stats is not None:
        state = {**state, "signal_lost": bool(activation_stats.constant_layers(MIN_SPREAD))}
        state["trend"] = _trend(state) if state["means"] else NO_TREND
    if loss is None or not math.isfinite(loss):
        return state
    size = state["size"] or min(max((total_steps or DEFAULT_TOTAL_STEPS) // BLOCKS, MIN_BLOCK), MAX_BLOCK)
    block = added(state["block"], loss)
    first = added(state["first"], loss) if state["first"][0] < max(3, size // 4) else state["first"]
    start = loss if state["start"] is None else state["start"]
    state = {**state, "size": size, "start": start, "first": first, "block": block}
    if block[0] < size:
        return state
    mean, error = moments(block)
    means, errors = [*state["means"], mean][-200:], [*state["errors"], error][-200:]
    if lr > 1.2 * state["lr"] > 0:  # warmup
        means, errors = means[-1:], errors[-1:]
    state = {**state, "lr": lr, "block": [0, 0.0, 0.0], "means": means, "errors": errors}
    state["lost"] = [*state["lost"][-5:], _has_lost_progress(state)]
    state["decreased"] = state["decreased"] or _has_decreased(state)
    return {**state, "trend": _trend(state)}


def renewed(state: State, improved: bool) -> State:
    """The state after the model was repaired: only the start of the loss is kept, the reference for all progress.

    Args:
        state: The state before.
        improved: Whether the repair has already lowered the loss.
    """
    kept = {key: state[key] for key in ("size", "start", "first")}
    return {**INITIAL, **kept, "decreased": state["decreased"] or improved}


def judge(state: State) -> LossTrend:
    """What the losses show; it changes only when a block completes or activation statistics arrive."""
    trend = state["trend"]
    return trend if isinstance(trend, LossTrend) else LossTrend(*trend)  # a list when it comes from a checkpoint


def _trend(state: State) -> LossTrend:
    means, errors, start = state["means"], state["errors"], state["start"]
    now, now_error = level(means[-2:], errors[-2:])
    before, before_error = level(means[-4:-2], errors[-4:-2])
    first = moments(state["first"])[0]
    old_enough = len(means) >= STUCK_AFTER
    flat = now >= before - 2 * math.hypot(now_error, before_error)
    not_below_first = means[0] - now + 2 * math.hypot(errors[0], now_error) < 0.1 * abs(means[0])
    never_decreased = old_enough and not state["decreased"] and not_below_first
    above_start = means[-1] - start > 0.5 * abs(start) + 2 * errors[-1] * math.sqrt(state["size"])
    near_zero = abs(now) <= NEAR_ZERO * abs(start) and max(means) <= 3 * abs(start)
    may_have_converged = now < first - LEARNED_DROP * abs(first) and not state["signal_lost"]
    return LossTrend(
        blocks=len(means),
        is_stuck=old_enough and (flat or never_decreased) and not near_zero and not may_have_converged,
        is_regressing=above_start or sum(state["lost"]) >= 4,
        above_start=above_start,
        never_decreased=never_decreased,
        start=start,
        best=min(means),
        last=means[-1],
    )


def _has_decreased(state: State) -> bool:
    """Whether the last two blocks are below the first steps beyond chance."""
    first, first_error = moments(state["first"])
    now, now_error = level(state["means"][-2:], state["errors"][-2:])
    surely = first - now > max(0.03 * abs(first), 2 * math.hypot(first_error, now_error))
    return surely or now < 0.5 * abs(first) or now < 0.5 * abs(state["start"])


def _has_lost_progress(state: State) -> bool:
    """Whether the last block is more than half of the way back from the best block to the first steps.

    The rise must have happened within ten blocks of the best: a slow drift belongs to the objective.
    """
    means, errors = state["means"], state["errors"]
    if len(means) < 3:
        return False
    first, first_error = moments(state["first"])
    best = min(range(len(means) - 1), key=means.__getitem__)
    gained, lost = first - means[best], means[-1] - means[best]
    if gained <= 0:
        return False
    sure = lost > 2 * math.hypot(errors[best], errors[-1]) and gained > 4 * math.hypot(errors[best], first_error)
    left_best = max(i for i, mean in enumerate(means) if mean <= means[best] + 0.25 * gained)
    soon = max(means[left_best : left_best + 11]) > means[best] + 0.5 * gained
    # A loss below zero is a log-likelihood or a surrogate (policy gradients) that returns to zero as the run succeeds:
    # there only more than all of the progress counts as lost.
    limit = first - 0.5 * gained if means[best] >= 0 else first + 4 * math.hypot(first_error, errors[-1])
    return bool(sure and soon and means[-1] > limit)


def added(sums: list[Any], value: float) -> list[Any]:
    """Count, sum and sum of squares with one more value."""
    return [sums[0] + 1, sums[1] + value, sums[2] + value * value]


def moments(sums: list[Any]) -> tuple[float, float]:
    """Mean and its standard error."""
    count, total, squares = sums
    mean = total / count
    variance = max(squares / count - mean * mean, 0.0)
    return mean, math.sqrt(variance / max(count - 1, 1))


def level(means: list[float], errors: list[float]) -> tuple[float, float]:
    """Mean of several blocks and its standard error; NaN when there are none."""
    if not means:
        return math.nan, math.nan
    return sum(means) / len(means), math.hypot(*errors) / len(errors)
