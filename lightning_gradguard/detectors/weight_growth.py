"""DIAGNOSE: weights that grow without end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.loss_trend import DEFAULT_TOTAL_STEPS
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.renamed import renamed_fields
from lightning_gradguard.tensors.norms import Floats

#: Columns of the samples in the state; the last three are running totals over all steps so far.
_STEP, _WEIGHT, _COUNT, _LOG_GRAD, _LOSS = range(5)


#: Factors of e by which the advised weight decay shrinks a weight within the run. Chosen, as in `IncreaseWeightDecay`.
DECAYED = 5.0


@renamed_fields(effort="grad_growth", slowly="loss_drop")
@dataclass(frozen=True)
class WeightGrowth(AbstractDetector):
    """Reports weights that still grow as fast as before late in the run, while their gradients become larger.

    A net that fits contradictory data, such as wrong labels, behaves like this: the loss still decreases a little, but
    only through larger weights, and these increase the gradient where learning would reduce it. Growth alone shows
    nothing: many healthy runs grow faster, and as steadily, as the zoo's case `weight_growth` (`python
    benchmarks/weight_growth.py`). So all of these must hold, on two samples of the weights in a row:

    * half of the planned steps are over, and the weight norm is `growth` times its first value;
    * in the last quarter of the steps so far the weights grew at least `pace` times as much as in the quarter before;
    * the gradient norm of the last quarter is `grad_growth` times that of the first fifth;
    * the loss is above zero and has decreased since the quarter before, but by less than `loss_drop`: a run that leaves
      a plateau grows its weights and gradients too, but its loss decreases fast.

    The rule is strict because training data alone cannot tell wrong labels from hard ones. The closest healthy run is a
    net that leaves its plateau late (`zoo.deep_tanh` with fewer layers), with a `grad_growth` of 2.3.

    Args:
        growth: Weight norm over its first value. The limit of the zoo's case `weight_growth`.
        pace: Growth of the last quarter over that of the quarter before. A random walk, whose norm grows like the
            square root of the steps, has 0.84, `weight_growth` 1.03 (`python benchmarks/weight_growth.py`).
        grad_growth: Gradient norm of the last quarter over that of the first fifth. `weight_growth` has 3.4 (same
            command).
        loss_drop: Largest relative decrease of the loss since the quarter before. `weight_growth` has 0.32 (same
            command).
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
        step 999: weight_growth in a: weight norm is 1.95x its first value (limit 1.5x) and still grows as fast

    References:
        Krogh and Hertz 1991; Zhang et al. 2017, arXiv 1611.03530 (nets fit random labels).
    """

    kind: ClassVar[str] = "weight_growth"
    page: ClassVar[str] = "no_progress"
    growth: float = 1.5
    pace: float = 0.88
    grad_growth: float = 2.7
    loss_drop: float = 0.4
    name: str = "weight_growth"

    def __post_init__(self) -> None:
        for field in ("growth", "grad_growth"):
            require(getattr(self, field) > 1, f"WeightGrowth({field}=...)", "must be above 1", getattr(self, field))
        require(self.pace > 0, "WeightGrowth(pace=...)", "must be positive", self.pace)
        require(0 < self.loss_drop < 1, "WeightGrowth(loss_drop=...)", "must be between 0 and 1", self.loss_drop)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        reach = stats.lr * (stats.total_steps or math.nan)  # of the run, for a decay of 1
        decay = f" of about {DECAYED / reach:.1g}" if reach > 0 else ""
        return f"use a weight decay{decay} (torch.optim.AdamW), and look at the labels of samples with a high loss"

    def init(self) -> State:
        return {"rows": np.zeros((0, 5)), "sums": [0, 0.0, 0.0], "first": None, "now": None, "samples": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if state["first"] is not None and len(state["first"]) != len(stats.grad_norm):
            state = self.init()
        count, log_grad, losses = state["sums"]
        if stats.clean and stats.loss is not None and stats.global_norm > 0:
            sums = [count + 1, log_grad + math.log(stats.global_norm), losses + stats.loss]
            state = {**state, "sums": sums}
        if stats.param_norm is not None and np.isfinite(stats.param_norm).all():
            state = self._sampled(state, stats, stats.param_norm)
        if state["samples"] < 2:
            return state, ()
        grown = state["now"] / np.maximum(state["first"], 1e-30)
        overall = state["rows"][-1, _WEIGHT] / state["rows"][0, _WEIGHT]
        names = stats.layers.pick((grown >= overall) & (state["first"] > 0), by=grown)
        detail = f"weight norm is {overall:.3g}x its first value (limit {self.growth:.3g}x) and still grows as fast"
        return state, (Finding(self.kind, stats.step, names, float(overall), self.growth, detail),)

    def _sampled(self, state: State, stats: GradStats, norms: Floats) -> State:
        """The state after one more sample of the weights."""
        matrices = norms[stats.layers.matrix]
        total = float(np.linalg.norm(matrices if len(matrices) else norms))
        rows = np.vstack([state["rows"], [stats.step, total, *state["sums"]]])
        rows = rows[::2] if len(rows) > 400 else rows
        first = norms if state["first"] is None else state["first"]
        state = {**state, "rows": rows, "first": first, "now": norms}
        late = stats.step >= (stats.total_steps or DEFAULT_TOTAL_STEPS) / 2 and len(rows) >= 8
        return {**state, "samples": state["samples"] + 1 if late and self._is_endless(rows) else 0}

    def _is_endless(self, rows: Floats) -> bool:
        """Whether all conditions but the number of steps hold."""
        growth, pace, grad_growth, loss = measure_growth(rows)
        fast = growth >= self.growth and pace >= self.pace
        return fast and grad_growth >= self.grad_growth and 1 - self.loss_drop <= loss < 1


def measure_growth(rows: Floats) -> tuple[float, float, float, float]:
    """Growth, pace and gradient growth as in `WeightGrowth`, and the loss of the last quarter over the one before.

    Args:
        rows: Samples with the columns step, weight norm, and the running count of steps, sum of log gradient norms and
            sum of losses, `[S, 5]`.

    Returns:
        The four ratios. The pace is 0 when the weights did not grow in the quarter before; the loss is NaN when one of
        the two is not above zero.
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
    log_grad_growth = mean(_LOG_GRAD, 0.75, 1.0) - mean(_LOG_GRAD, 0.0, 0.2)
    return (
        at[1.0][_WEIGHT] / first if first > 0 else math.nan,
        last / previous if previous > 0 else 0.0,
        math.exp(min(log_grad_growth, 700.0)),
        after / before if before > 0 and after > 0 else math.nan,
    )
