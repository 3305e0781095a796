"""DIAGNOSE: whether a run gets anywhere, by its loss alone: the ground on which a sight inside becomes a symptom.

A flat spot in depth, a saturated layer or a slow start harms nobody while the loss falls: many healthy runs have one.
So what is seen inside a batch counts only when the loss says that the run is stuck or going wrong.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from lightning_gradguard.detectors.base import AbstractDetector, State
from lightning_gradguard.findings import Finding
from lightning_gradguard.probes import SAME, Probe
from lightning_gradguard.stats import ENDLESS, GradStats

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


@dataclass(frozen=True)
class Progress:
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
    """

    blocks: int = 0
    flat: bool = False
    unmoved: bool = False
    worse: bool = False
    lost: bool = False
    arrived: bool = False
    fallen: bool = False

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


NOTHING: State = {
    "size": 0, "lr": 0.0, "start": None, "first": [0, 0.0, 0.0], "block": [0, 0.0, 0.0], "means": [], "errors": [],
    "lost": [], "moved": False, "judged": [],
}  # fmt: skip


def follow(state: State, stats: GradStats) -> State:
    """The state after one more loss; steps without a finite loss are passed over.

    Example:
        >>> state = NOTHING
        >>> for step in range(300):
        ...     state = follow(state, GradStats.of({"a": 1.0}, step=step, loss=2.3, budget=1000))
        >>> judge(state)
        Progress(blocks=15, flat=True, unmoved=True, worse=False, lost=False, arrived=False, fallen=False)
    """
    if stats.loss is None or not stats.loss_finite or stats.adversarial:
        return state
    known = stats.followed.get(id(state))  # most detectors follow the loss from the same state on
    if known is None or known[0] is not state:
        known = stats.followed[id(state)] = (state, _followed(state, stats, stats.loss))
    return known[1]


def _followed(state: State, stats: GradStats, loss: float) -> State:
    size = state["size"] or min(max((stats.budget or ENDLESS) // BLOCKS, SHORTEST), LONGEST)
    block = added(state["block"], loss)
    first = added(state["first"], loss) if state["first"][0] < max(3, size // 4) else state["first"]
    start = loss if state["start"] is None else state["start"]
    state = {**state, "size": size, "start": start, "first": first, "block": block}
    if block[0] < size:
        return state
    mean, error = moments(block)
    means, errors = [*state["means"], mean][-200:], [*state["errors"], error][-200:]
    if stats.lr > 1.2 * state["lr"] > 0:  # the warmup goes on: what came before it ends does not count
        means, errors = means[-1:], errors[-1:]
    state = {**state, "lr": stats.lr, "block": [0, 0.0, 0.0], "means": means, "errors": errors}
    state = {**state, "lost": [*state["lost"][-5:], _lost(state)], "moved": state["moved"] or _moved(state)}
    return {**state, "judged": _judged(state)}


def renewed(state: State, improved: bool) -> State:
    """The state after a repair: only where the loss began is kept, so that what was gained by then still counts."""
    return {**NOTHING, **{key: state[key] for key in ("size", "start", "first")}, "moved": state["moved"] or improved}


def judge(state: State) -> Progress:
    """What the blocks say; it changes only when one is complete."""
    return Progress(*state["judged"])


def _judged(state: State) -> list[Any]:
    means, errors = state["means"], state["errors"]
    now, now_error = level(means[-2:], errors[-2:])
    before, before_error = level(means[-4:-2], errors[-4:-2])
    return [
        len(means),
        len(means) >= 4 and now >= before - 2 * math.hypot(now_error, before_error),
        not state["moved"] and means[0] - now + 2 * math.hypot(errors[0], now_error) < 0.1 * abs(means[0]),
        means[-1] - state["start"] > 0.5 * abs(state["start"]) + 2 * errors[-1] * math.sqrt(state["size"]),
        sum(state["lost"]) >= 4,
        abs(now) <= ARRIVED * abs(state["start"]) and max(means) <= 3 * abs(state["start"]),
        now < moments(state["first"])[0] - FALLEN * abs(moments(state["first"])[0]),
    ]


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


class Inside(AbstractDetector):
    """A symptom seen inside a batch that counts only when the run is hurt. Subclasses are final frozen dataclasses."""

    skips_cancelled: ClassVar[bool] = True

    def init(self) -> State:
        return {"loss": NOTHING, "seen": self.blank(), "blocked": False}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        state = {**state, "loss": follow(state["loss"], stats)}
        if stats.probe is not None:
            state |= {"seen": self.look(state["seen"], stats.probe), "blocked": bool(stats.probe.mute(SAME))}
        finding = self.verdict(state["seen"], stats) if self.counts(state) else None
        return state, () if finding is None else (finding,)

    def counts(self, state: State) -> bool:
        """Whether what is seen is a symptom: the run is hurt, and it is not one that has learnt and still tells samples
        apart. A run that has converged may keep a layer that is mostly idle, raw inputs, or a memory of no use to it.
        """
        progress = judge(state["loss"])
        return progress.hurt and (state["blocked"] or not progress.learnt)

    def renew(self, state: State, improved: bool) -> State:
        return {**self.init(), "loss": renewed(state["loss"], improved)}

    def blank(self) -> State:
        """What has been seen before the first look."""
        return {}

    @abstractmethod
    def look(self, seen: State, probe: Probe) -> State:
        """What has been seen after one more look."""

    @abstractmethod
    def verdict(self, seen: State, stats: GradStats) -> Finding | None:
        """The symptom, now that the run is hurt; None when this is not the cause."""
