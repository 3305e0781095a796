"""COLLECT: whether a run gets anywhere, by its loss alone: the ground on which a sight inside becomes a symptom.

A flat spot in depth, a saturated layer or a slow start harms nobody while the loss falls: many healthy runs have one.
So what is seen inside a batch counts only when the loss says that the run is stuck or going wrong. The loss is followed
once for all detectors; what it says comes to them as `GradStats.progress`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

#: Steps assumed for a run that has no end. Chosen.
ENDLESS = 5000

#: A run is judged in so many blocks of steps, each between `SHORTEST` and `LONGEST`. Chosen.
BLOCKS, SHORTEST, LONGEST = 50, 4, 500
#: Blocks after which a run with a visible cause, and one without, should have got somewhere: 10 % and 26 %. The
#: slowest of the public healthy runs had lost 5 % of its loss after 20 % of its steps.
SOON, LATE = 5, 13
#: Share of the first loss below which a standstill is success: a classifier that only unlearns wild first answers
#: comes down to 1/300 of its loss and has learnt nothing yet (raw inputs, `benchmarks/repair`). Chosen.
ARRIVED = 1e-4
#: Part of the first loss that a run must have lost before a standstill may be convergence. Chosen.
FALLEN = 0.3


class LossTrend(NamedTuple):
    """What the loss of a run says so far.

    Args:
        blocks: Blocks completed.
        flat: The last two blocks are not below the two before them, beyond chance.
        unmoved: The loss has never been below the first steps beyond chance, and is surely not 10 % below the first
            block now.
        worse: The loss is half as much again as in the first step, or more, beyond the scatter of the batches.
        lost: More than half of the best progress (all of it, once the loss was below zero) is gone, in four of the last
            six blocks, and went within ten of being near the best.
        arrived: The loss is below `ARRIVED` of where it began and has come there without exploding.
        fallen: The loss is `FALLEN` below the first steps: at chance a classifier that began near it is not.
        start: The first loss.
        best: The lowest mean of a block.
        last: The mean of the last block.
    """

    blocks: int = 0
    flat: bool = False
    unmoved: bool = False
    worse: bool = False
    lost: bool = False
    arrived: bool = False
    fallen: bool = False
    start: float = math.nan
    best: float = math.nan
    last: float = math.nan

    @property
    def wrong(self) -> bool:
        """The run goes backwards."""
        return self.worse or self.lost

    @property
    def learnt(self) -> bool:
        """The loss has fallen far and stayed down, whether or not it still falls: such a run may have converged."""
        return self.fallen and not self.wrong

    @property
    def hurt(self) -> bool:
        """It goes backwards, or has stood still from `SOON` on: a cause that can be seen is then to blame."""
        return self.wrong or (self.blocks >= SOON and (self.flat or self.unmoved) and not self.arrived)


#: Before the first block is complete.
UNTOLD = LossTrend()

#: All that is remembered of the losses: numbers and lists of them.
State = dict[str, Any]

NOTHING: State = {
    "size": 0, "lr": 0.0, "start": None, "first": [0, 0.0, 0.0], "block": [0, 0.0, 0.0], "means": [], "errors": [],
    "lost": [], "moved": False, "judged": UNTOLD,
}  # fmt: skip


def follow(state: State, loss: float | None, lr: float = math.nan, total_steps: int | None = None) -> State:
    """The state after one more loss; a step without a finite loss is passed over.

    Args:
        state: The state before; `NOTHING` at first.
        loss: The step's loss, if it is an objective.
        lr: The step's largest learning rate: while it climbs, the run has not begun.
        total_steps: Optimizer steps that the run is meant to take.

    Example:
        >>> state = NOTHING
        >>> for step in range(300):
        ...     state = follow(state, loss=2.3, total_steps=1000)
        >>> judge(state).blocks, judge(state).unmoved, judge(state).hurt
        (15, True, True)
    """
    if loss is None or not math.isfinite(loss):
        return state
    size = state["size"] or min(max((total_steps or ENDLESS) // BLOCKS, SHORTEST), LONGEST)
    block = added(state["block"], loss)
    first = added(state["first"], loss) if state["first"][0] < max(3, size // 4) else state["first"]
    start = loss if state["start"] is None else state["start"]
    state = {**state, "size": size, "start": start, "first": first, "block": block}
    if block[0] < size:
        return state
    mean, error = moments(block)
    means, errors = [*state["means"], mean][-200:], [*state["errors"], error][-200:]
    if lr > 1.2 * state["lr"] > 0:  # the warmup goes on: what came before it ends does not count
        means, errors = means[-1:], errors[-1:]
    state = {**state, "lr": lr, "block": [0, 0.0, 0.0], "means": means, "errors": errors}
    state = {**state, "lost": [*state["lost"][-5:], _lost(state)], "moved": state["moved"] or _moved(state)}
    return {**state, "judged": _judged(state)}


def renewed(state: State, improved: bool) -> State:
    """The state after a repair: only where the loss began is kept, so that what was gained by then still counts."""
    return {**NOTHING, **{key: state[key] for key in ("size", "start", "first")}, "moved": state["moved"] or improved}


def judge(state: State) -> LossTrend:
    """What the blocks say; it changes only when one is complete."""
    judged = state["judged"]
    return judged if isinstance(judged, LossTrend) else LossTrend(*judged)  # a list when it comes from a checkpoint


def _judged(state: State) -> LossTrend:
    means, errors = state["means"], state["errors"]
    now, now_error = level(means[-2:], errors[-2:])
    before, before_error = level(means[-4:-2], errors[-4:-2])
    return LossTrend(
        len(means),
        len(means) >= 4 and now >= before - 2 * math.hypot(now_error, before_error),
        not state["moved"] and means[0] - now + 2 * math.hypot(errors[0], now_error) < 0.1 * abs(means[0]),
        means[-1] - state["start"] > 0.5 * abs(state["start"]) + 2 * errors[-1] * math.sqrt(state["size"]),
        sum(state["lost"]) >= 4,
        abs(now) <= ARRIVED * abs(state["start"]) and max(means) <= 3 * abs(state["start"]),
        now < moments(state["first"])[0] - FALLEN * abs(moments(state["first"])[0]),
        state["start"],
        min(means),
        means[-1],
    )


def _moved(state: State) -> bool:
    first, first_error = moments(state["first"])
    now, now_error = level(state["means"][-2:], state["errors"][-2:])
    surely = first - now > max(0.03 * abs(first), 2 * math.hypot(first_error, now_error))
    return surely or now < 0.5 * abs(first) or now < 0.5 * abs(state["start"])


def _lost(state: State) -> bool:
    means, errors = state["means"], state["errors"]
    if len(means) < 3:
        return False
    first, first_error = moments(state["first"])
    best = min(range(len(means) - 1), key=means.__getitem__)
    gained, gone = first - means[best], means[-1] - means[best]
    if gained <= 0:
        return False
    sure = gone > 2 * math.hypot(errors[best], errors[-1]) and gained > 4 * math.hypot(errors[best], first_error)
    left = max(i for i, mean in enumerate(means) if mean <= means[best] + 0.25 * gained)
    soon = max(means[left : left + 11]) > means[best] + 0.5 * gained  # a drift is the objective's own
    # Below zero the loss is a likelihood or, as in policy gradients, a surrogate that comes back to zero as the run
    # succeeds: only more than all of the progress is a loss there.
    limit = first - 0.5 * gained if means[best] >= 0 else first + 4 * math.hypot(first_error, errors[-1])
    return sure and soon and means[-1] > limit


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
    """Mean of blocks and its standard error; NaN of none."""
    if not means:
        return math.nan, math.nan
    return sum(means) / len(means), math.hypot(*errors) / len(errors)
