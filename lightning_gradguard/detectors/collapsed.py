"""DIAGNOSE: a hidden layer that gives every sample the same answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class Collapsed(ActivationDetector):
    """Reports a hidden layer whose outputs hardly differ between samples, while the run gets nowhere.

    What follows such a layer cannot depend on the input; the best it can learn is a constant. Saturation, death and
    a signal that fades on its way through depth all end here, and so does a learning rate that threw the weights away.

    Args:
        spread: Deviation over the batch relative to the output's RMS. Healthy hidden layers stayed above 0.05, stuck
            ones below 0.001 (`benchmarks/repair`); 0.005 lies between.
        looks: Looks in a row. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> same = ActivationStats(layers=("a", "b", "c"), spread=np.array([0.4, 1e-7, 0.9]))
        >>> detector, stuck = Collapsed(looks=1), LossTrend(blocks=6, flat=True)
        >>> stats = GradStats.of({"a": 0.1}, step=59, loss=2.3, loss_trend=stuck, activation_stats=same)
        >>> print(*detector.update(detector.init(), stats)[1])
        step 59: collapsed in b: difference between samples (1e-07, limit 0.005)
    """

    kind: ClassVar[str] = "collapsed"
    spread: float = 0.005
    looks: int = 2
    name: str = "collapsed"

    def __post_init__(self) -> None:
        for field in ("spread", "looks"):
            require(getattr(self, field) > 0, f"Collapsed({field}=...)", "must be positive", getattr(self, field))

    def look(self, seen: State, probe: ActivationStats) -> State:
        sick = probe.constant_layers(self.spread)
        if not sick:
            return {}
        spread = dict(zip(probe.layers, probe.spread, strict=True))
        worst = min(float(np.nan_to_num(spread[layer])) for layer in sick)
        return {"looks": seen.get("looks", 0) + 1, "layers": list(sick), "spread": worst}

    def verdict(self, seen: State, stats: GradStats) -> Finding | None:
        if seen.get("looks", 0) < self.looks:
            return None
        why = "difference between samples"
        return Finding(self.kind, stats.step, tuple(seen["layers"]), seen["spread"], self.spread, why)
