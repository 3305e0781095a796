"""DIAGNOSE: gradients far above everything the healthy run has shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, empty_record, excess, learn, median, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class Exploding(AbstractDetector):
    """Reports a gradient norm more than `factor` times the highest healthy one, of the whole model or of a layer.

    Only ratios of norms count, so nothing depends on the loss's scale. Two rules:

    * a jump: the global norm, or a layer's norm that also exceeds the global record, is over `factor` times its record;
    * growth: for `sustained` steps in a row the global norm is above the record and over `factor` times the median of
      the last `window` steps, while the loss is above its own median. (A model that leaves a plateau grows its
      gradients too, but its loss falls; a recurrent net that meets a cliff is back the next step.)

    The limit in the finding is the record itself: the norm that clipping should bring the gradient back to. A level
    that stays for `patience` steps with an ordinary loss is accepted as new: the task changed, not the run's health.

    Args:
        factor: How far above the record is an explosion. Over 78 healthy runs the largest jump of a run that needed
            no help was 105 times its record (`benchmarks/calibrate.py`); 1000 leaves a margin of ten.
        warmup: Steps that only learn; an outlier among them is left out. Chosen.
        window: Steps of the moving medians. Chosen.
        sustained: Steps in a row that make a growth. Chosen.
        patience: Flagged steps in a row with an ordinary loss after which the level counts as normal. Chosen.
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
        step 9: exploding in b: gradient norm (9e+03, limit 1.12)
    """

    kind: ClassVar[str] = "exploding"
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

    def init(self) -> State:
        return {"record": empty_record(), "norms": [], "losses": [], "flagged": 0, "grown": 0, "limit": float("nan")}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if not stats.clean or stats.global_norm == 0.0:
            return state, ()
        row = np.array([stats.global_norm, *stats.grad_norm.tolist()])
        highest = state["record"]["highest"]
        usual = stats.global_norm <= state["limit"]  # no layer's norm is above the global one
        if usual or highest is None or len(highest) != len(row):
            return self._learned(state, row, stats.loss), ()
        scaled = row / self.factor
        sick = (scaled[1:] > highest[1:]) & (row[1:] > highest[0]) & (highest[1:] > 0)
        usual_loss = stats.loss is None or stats.loss <= median(state["losses"])
        jumped = scaled[0] > highest[0] or sick.any()
        grown = row[0] > highest[0] and scaled[0] > median(state["norms"]) and not usual_loss
        state = {**state, "grown": state["grown"] + 1 if grown else 0}
        if grown and not jumped and state["grown"] < self.sustained:
            return state, ()
        if not (jumped or grown):
            return self._learned(state, row, stats.loss), ()
        flagged = state["flagged"] + 1 if usual_loss else 0
        if flagged >= self.patience:
            return self._learned(self.init(), row, stats.loss), ()
        decades = excess(row, highest)[1:]
        layers = stats.layers.pick(sick if sick.any() else decades >= 0.5 * decades.max(), by=decades)
        finding = Finding(self.kind, stats.step, layers, stats.global_norm, state["limit"], "gradient norm")
        return {**state, "flagged": flagged}, (finding,)

    def _learned(self, state: State, row: np.ndarray, loss: float | None) -> State:
        record = learn(state["record"], row, self.warmup, self.factor)
        limit = math.nan if record["highest"] is None else float(record["highest"][0])
        norms = [*state["norms"][1 - self.window :], float(row[0])]
        losses = state["losses"] if loss is None else [*state["losses"][1 - self.window :], loss]
        return {"record": record, "norms": norms, "losses": losses, "flagged": 0, "grown": 0, "limit": limit}
