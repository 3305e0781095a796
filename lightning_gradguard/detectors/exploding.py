"""DIAGNOSE: gradients far above all that the run has shown while healthy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import (
    AbstractDetector,
    State,
    advise_on_samples,
    decades_above,
    empty_record,
    highest_so_far,
    lower_lr,
    median,
    require,
    times,
    update_record,
)
from lightning_gradguard.findings import Finding
from lightning_gradguard.tensors.norms import Floats

#: A larger norm may belong to a gradient that Adam cannot square in fp32 (1.8e19), and whose weights then stay as they
#: are for the rest of the run.
LARGEST = 1e18


@dataclass(frozen=True)
class Exploding(AbstractDetector):
    """Reports a gradient norm, of the whole model or of a layer, far above the highest healthy norm.

    Only ratios of norms count, so the scale of the loss does not matter. There are two rules:

    * a jump: the global norm is more than `factor` times its highest healthy value, or a layer's norm is more than
      `factor` times its own highest value and above the highest global one;
    * growth: for `sustained` steps in a row the global norm is above its highest healthy value and more than `factor`
      times the median of the last `window` steps, while the loss is above its own median. (The gradients of a model
      that leaves a plateau grow too, but its loss decreases; a recurrent net at a cliff recovers on the next step.)

    During the warmup only a global norm of more than `factor` times the highest before, or above 1e18, is reported.

    The finding's limit is the highest healthy global norm, to which clipping should reduce the gradient. A level that
    lasts for `patience` steps with an ordinary loss is accepted as the new normal: the task changed.

    Args:
        factor: Ratio to the highest healthy norm. Over 78 healthy runs the largest jump that needed no help was 105
            times (`python benchmarks/calibrate.py`); 1000 leaves a margin of ten.
        warmup: First steps, which only collect norms; outliers among them are left out. Chosen, not measured.
        window: Steps of the moving medians. Chosen, not measured.
        sustained: Steps in a row for the growth rule. Chosen, not measured.
        patience: Flagged steps in a row with an ordinary loss until the level counts as normal. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If `factor` is not above 1, or a count is not positive.

    Example:
        >>> detector = Exploding(warmup=5)
        >>> state = detector.init()
        >>> for step in range(9):
        ...     state, found = detector.update(state, GradStats.of({"a": 1.0, "b": 0.5}, step=step, loss=1.0))
        >>> found
        ()
        >>> state, found = detector.update(state, GradStats.of({"a": 1.0, "b": 9e3}, step=9, loss=8.0))
        >>> print(*found)
        step 9: exploding in b: gradient norm is 9e+03, 8,050 times the highest healthy norm (limit 1.12)
    """

    kind: ClassVar[str] = "exploding"
    page: ClassVar[str] = "exploding"
    factor: float = 1e3
    warmup: int = 20
    window: int = 100
    sustained: int = 5
    patience: int = 20
    name: str = "exploding"

    def __post_init__(self) -> None:
        require(self.factor > 1, "Exploding(factor=...)", "must be above 1", self.factor)
        for field in ("warmup", "window", "sustained", "patience"):
            require(getattr(self, field) >= 1, f"Exploding({field}=...)", "must be at least 1", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        if advice := advise_on_samples(stats):
            return advice
        if not finding.limit > 0:
            return f"{lower_lr(stats)}, or draw smaller initial weights (fixes.he, fixes.glorot)"
        constant = f"Trainer(gradient_clip_val={finding.limit:.2g})"
        return f"clip at every step: {constant}, or GradGuard(clip=ZClip()), which follows the run"

    def init(self) -> State:
        return {"record": empty_record(), "norms": [], "losses": [], "flagged": 0, "grown": 0, "limit": math.nan}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if not stats.clean or stats.global_norm == 0.0:
            return state, ()
        row = np.array([stats.global_norm, *stats.grad_norm.tolist()])
        highest = state["record"]["highest"]
        if highest is None and (early := self._judge_early(state, stats, row)):
            return state, (early,)
        ordinary = stats.global_norm <= state["limit"]  # then no layer's norm exceeds the global limit either
        if ordinary or highest is None or len(highest) != len(row):
            return self._learned(state, row, stats.loss), ()
        scaled = row / self.factor
        layer_jumped = (scaled[1:] > highest[1:]) & (row[1:] > highest[0]) & (highest[1:] > 0)
        ordinary_loss = stats.loss is None or stats.loss <= median(state["losses"])
        jumped = scaled[0] > highest[0] or layer_jumped.any()
        grown = row[0] > highest[0] and scaled[0] > median(state["norms"]) and not ordinary_loss
        state = {**state, "grown": state["grown"] + 1 if grown else 0}
        if grown and not jumped and state["grown"] < self.sustained:
            return state, ()
        if not (jumped or grown):
            return self._learned(state, row, stats.loss), ()
        flagged = state["flagged"] + 1 if ordinary_loss else 0
        if flagged >= self.patience:
            return self._learned(self.init(), row, stats.loss), ()
        decades = decades_above(row, highest)[1:]
        layers = stats.layers.pick(layer_jumped if layer_jumped.any() else decades >= 0.5 * decades.max(), by=decades)
        norm, limit = stats.global_norm, state["limit"]
        detail = f"gradient norm is {norm:.3g}, {times(norm, limit)} times the highest healthy norm (limit {limit:.3g})"
        return {**state, "flagged": flagged}, (Finding(self.kind, stats.step, layers, norm, limit, detail),)

    def _judge_early(self, state: State, stats: GradStats, row: Floats) -> Finding | None:
        """The finding of a step of the warmup: far above the steps before it, or too large to be squared in fp32."""
        limit = float(highest_so_far(state["record"], len(row))[0]) or math.nan
        if not (row[0] / self.factor > limit or row[0] > LARGEST):
            return None
        above = f", {times(row[0], limit)} times the highest before (limit {limit:.3g})" if limit > 0 else ""
        layers = stats.layers.pick(row[1:] >= 0.1 * row[1:].max(), by=row[1:])
        return Finding(self.kind, stats.step, layers, row[0], limit, f"gradient norm is {row[0]:.3g}{above}")

    def _learned(self, state: State, row: Floats, loss: float | None) -> State:
        """The state after a healthy step."""
        record = update_record(state["record"], row, self.warmup, self.factor)
        limit = math.nan if record["highest"] is None else float(record["highest"][0])
        norms = [*state["norms"][1 - self.window :], float(row[0])]
        losses = state["losses"] if loss is None else [*state["losses"][1 - self.window :], loss]
        return {"record": record, "norms": norms, "losses": losses, "flagged": 0, "grown": 0, "limit": limit}
