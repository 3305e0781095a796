"""DIAGNOSE: features of very different, or very large, scales."""

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
class UnnormalizedInput(ActivationDetector):
    """Reports input features far from mean 0 and deviation 1, while the run gets nowhere or goes wrong.

    Args:
        limit: Largest RMS of a feature. Standardised features have 1; healthy runs on raw two-dimensional data had up
            to 7, pixels between 0 and 16 up to 13, and the wine data, which no plain SGD learns, 800. Chosen: 30.
        name: Key of the state.

    Raises:
        ValueError: If `limit` is not positive.

    Example:
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> mean, std = np.array([750.0, 0.2]), np.array([300.0, 0.1])
        >>> raw = ActivationStats(layers=("net.0",), input_mean=mean, input_std=std)
        >>> detector, gone = UnnormalizedInput(), LossTrend(blocks=5, worse=True)
        >>> stats = GradStats.of({"net.0": 1e9}, step=19, loss=1e6, loss_trend=gone, activation_stats=raw)
        >>> print(*detector.update(detector.init(), stats)[1])
        step 19: unnormalized_input in net.0: largest RMS of a feature (808, limit 30)

    References:
        LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp", section 4.3.
    """

    kind: ClassVar[str] = "unnormalized_input"
    limit: float = 30.0
    name: str = "unnormalized_input"

    def __post_init__(self) -> None:
        require(self.limit > 0, "UnnormalizedInput(limit=...)", "must be positive", self.limit)

    def look(self, seen: State, probe: ActivationStats) -> State:
        rms = np.hypot(probe.input_mean, probe.input_std)
        if seen or not len(rms) or not np.isfinite(rms).all():
            return seen
        return {"rms": float(rms.max()), "layer": probe.layers[0]}

    def verdict(self, seen: State, stats: GradStats) -> Finding | None:
        if not seen.get("rms", 0.0) > self.limit:
            return None
        return Finding(self.kind, stats.step, (seen["layer"],), seen["rms"], self.limit, "largest RMS of a feature")
