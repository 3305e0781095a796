"""DIAGNOSE: a hidden layer whose output is the same for every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.activation_stats import MIN_SPREAD, ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.renamed import renamed_fields


@renamed_fields(looks="patience")
@dataclass(frozen=True)
class Collapsed(ActivationDetector):
    """Reports a hidden layer whose output hardly differs between samples, while the run is stuck or regressing.

    The layers after it cannot depend on the input, so the best they can learn is a constant. Saturated or dead layers,
    a signal that vanishes over depth and a learning rate that destroyed the weights all lead to this.

    Args:
        spread: Standard deviation over the batch, divided by the output's RMS. On the runs of `python
            benchmarks/repair` healthy hidden layers stayed above 0.05 and stuck ones below 0.001; 0.005 is between.
        patience: Activation samples in a row. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> constant = ActivationStats(layers=("a", "b", "c"), spread=np.array([0.4, 1e-7, 0.9]))
        >>> detector, stuck = Collapsed(patience=1), LossTrend(is_stuck=True)
        >>> stats = GradStats.of({"a": 0.1}, step=59, loss=2.3, loss_trend=stuck, activation_stats=constant)
        >>> print(*detector.update(detector.init(), stats)[1])
        step 59: collapsed in b: output differs between samples by 1e-07 of its RMS (limit 0.005)
    """

    kind: ClassVar[str] = "collapsed"
    page: ClassVar[str] = "dead_units"
    spread: float = MIN_SPREAD
    patience: int = 2
    name: str = "collapsed"

    def __post_init__(self) -> None:
        for field in ("spread", "patience"):
            require(getattr(self, field) > 0, f"Collapsed({field}=...)", "must be positive", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "draw other initial weights (fixes.he, fixes.glorot), or normalize the input of the layer"

    def observe(self, state: State, sample: ActivationStats) -> State:
        constant = sample.constant_layers(self.spread)
        if not constant:
            return {}
        spread = dict(zip(sample.layers, sample.spread, strict=True))
        least = min(float(np.nan_to_num(spread[layer])) for layer in constant)
        return {"samples": state.get("samples", 0) + 1, "layers": list(constant), "spread": least}

    def judge(self, state: State, stats: GradStats) -> Finding | None:
        if state.get("samples", 0) < self.patience:
            return None
        detail = f"output differs between samples by {state['spread']:.3g} of its RMS (limit {self.spread:.3g})"
        return Finding(self.kind, stats.step, tuple(state["layers"]), state["spread"], self.spread, detail)
