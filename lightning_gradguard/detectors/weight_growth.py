"""DIAGNOSE: weights that grow without end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.loss_trend import ENDLESS
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.tensors.norms import Floats

#: What a sample adds to the state: step, weight norm, then running counts and sums of log gradient norms and losses.
_STEP, _WEIGHT, _COUNT, _LOG_GRAD, _LOSS = range(5)


@dataclass(frozen=True)
class WeightGrowth(AbstractDetector):
    """Reports weights that grow on as fast as before, late in the run, while it takes ever larger gradients to do so.

    That is how a net fits what contradicts itself, such as wrong labels: the loss goes on falling a little, but only
    larger weights can do it, and they make the gradient larger where learning makes it smaller. The growth alone says
    nothing: many healthy runs grow faster than the zoo's `weight_growth`, and with as steep a slope (`python
    benchmarks/weight_growth.py`). So all of these must hold, at two samples of the weights in a row:

    * half of the planned steps are over, and the weights have grown by `growth` since the first sample;
    * in the last quarter of the steps so far they grew by at least `pace` of what they did in the quarter before;
    * the gradient norm of that quarter is `effort` times that of the first fifth;
    * the loss is above zero and has fallen since the quarter before, but by less than `slowly`: a run that leaves a
      plateau grows its weights and gradients too, and its loss drops.

    It is strict, and it must be: training data alone cannot tell wrong labels from hard ones. What comes nearest among
    the healthy is a net that leaves its plateau late (`zoo.deep_tanh` with fewer layers), with an `effort` of 2.3.

    Args:
        growth: Weight norm now over the first. The limit of the zoo's case.
        pace: See above. A random walk, which grows like the root of the steps, has 0.84, `zoo.weight_growth` 1.03
            (`benchmarks/weight_growth.py`).
        effort: See above. 3.4 there.
        slowly: See above. 0.32 there.
        name: Key of the state.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> detector = WeightGrowth()
        >>> state = detector.init()
        >>> for step in range(1000):
        ...     norm = np.array([10 + step / 100]) if step % 50 == 1 else None
        ...     loss, grad = 0.7 * 0.999**step, 0.2 + step / 500
        ...     stats = GradStats.of({"a": grad}, step=step, loss=loss, total_steps=1000, param_norm=norm)
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 999: weight_growth in a: weight norm over the first one, still growing as fast (1.95, limit 1.5)

    References:
        Krogh and Hertz 1991; Zhang et al. 2017, arXiv 1611.03530 (nets fit random labels).
    """

    kind: ClassVar[str] = "weight_growth"
    growth: float = 1.5
    pace: float = 0.88
    effort: float = 2.7
    slowly: float = 0.4
    name: str = "weight_growth"

    def __post_init__(self) -> None:
        for field in ("growth", "effort"):
            require(getattr(self, field) > 1, f"WeightGrowth({field}=...)", "must be above 1", getattr(self, field))
        require(self.pace > 0, "WeightGrowth(pace=...)", "must be positive", self.pace)
        require(0 < self.slowly < 1, "WeightGrowth(slowly=...)", "must be between 0 and 1", self.slowly)

    def init(self) -> State:
        return {"rows": np.zeros((0, 5)), "sums": [0, 0.0, 0.0], "first": None, "now": None, "held": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if state["first"] is not None and len(state["first"]) != len(stats.layers):
            state = self.init()
        count, log_grad, losses = state["sums"]
        if stats.clean and stats.loss is not None and stats.global_norm > 0:
            sums = [count + 1, log_grad + math.log(stats.global_norm), losses + stats.loss]
            state = {**state, "sums": sums}
        if stats.param_norm is not None and np.isfinite(stats.param_norm).all():
            state = self._sampled(state, stats, stats.param_norm)
        if state["held"] < 2:
            return state, ()
        grown = state["now"] / np.maximum(state["first"], 1e-30)
        overall = state["rows"][-1, _WEIGHT] / state["rows"][0, _WEIGHT]
        names = stats.layers.pick((grown >= overall) & (state["first"] > 0), by=grown)
        why = "weight norm over the first one, still growing as fast"
        return state, (Finding(self.kind, stats.step, names, float(overall), self.growth, why),)

    def _sampled(self, state: State, stats: GradStats, norms: Floats) -> State:
        """The state after one more sample of the weights."""
        matrices = norms[stats.layers.matrix]
        total = float(np.linalg.norm(matrices if len(matrices) else norms))
        rows = np.vstack([state["rows"], [stats.step, total, *state["sums"]]])
        rows = rows[::2] if len(rows) > 400 else rows
        first = norms if state["first"] is None else state["first"]
        state = {**state, "rows": rows, "first": first, "now": norms}
        late = stats.step >= (stats.total_steps or ENDLESS) / 2 and len(rows) >= 8
        return {**state, "held": state["held"] + 1 if late and self._endless(rows) else 0}

    def _endless(self, rows: Floats) -> bool:
        """Whether all the signs are there."""
        growth, pace, effort, loss = signs(rows)
        return growth >= self.growth and pace >= self.pace and effort >= self.effort and 1 - self.slowly <= loss < 1


def signs(rows: Floats) -> tuple[float, float, float, float]:
    """What the samples of a run say: growth, pace and effort as in `WeightGrowth`, and the loss of the last quarter.

    The last is relative to the loss of the quarter before, and NaN where one of them is not above zero; a growth that
    has no quarter before it to be compared with has no pace (0).
    """
    end = rows[-1, _STEP]
    at = {
        q: [float(np.interp(q * end, rows[:, _STEP], column)) for column in rows.T] for q in (0.0, 0.2, 0.5, 0.75, 1.0)
    }

    def mean(what: int, since: float, until: float) -> float:
        steps = at[until][_COUNT] - at[since][_COUNT]
        return (at[until][what] - at[since][what]) / steps if steps > 0 else math.nan

    first = at[0.0][_WEIGHT]
    last, previous = at[1.0][_WEIGHT] - at[0.75][_WEIGHT], at[0.75][_WEIGHT] - at[0.5][_WEIGHT]
    before, after = mean(_LOSS, 0.5, 0.75), mean(_LOSS, 0.75, 1.0)
    effort = mean(_LOG_GRAD, 0.75, 1.0) - mean(_LOG_GRAD, 0.0, 0.2)
    return (
        at[1.0][_WEIGHT] / first if first > 0 else math.nan,
        last / previous if previous > 0 else 0.0,
        math.exp(min(effort, 700.0)),
        after / before if before > 0 and after > 0 else math.nan,
    )
