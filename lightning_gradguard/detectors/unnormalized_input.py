"""DIAGNOSE: input features that are not normalized."""

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
    """Reports input features far from mean 0 and standard deviation 1, while the run is stuck or regressing.

    Args:
        limit: Largest RMS of a feature; standardized features have 1. On the runs of `python benchmarks/repair` healthy
            ones had up to 7 on raw two-dimensional data and 13 on pixels from 0 to 16; the wine data, on which plain
            SGD fails, have 800. 30 lies between.
        name: Key of the state.

    Raises:
        ValueError: If `limit` is not positive.

    Example:
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> mean, std = np.array([750.0, 0.2]), np.array([300.0, 0.1])
        >>> raw = ActivationStats(layers=("net.0",), input_mean=mean, input_std=std)
        >>> detector, diverging = UnnormalizedInput(), LossTrend(is_regressing=True)
        >>> stats = GradStats.of({"net.0": 1e9}, step=19, loss=1e6, loss_trend=diverging, activation_stats=raw)
        >>> print(*detector.update(detector.init(), stats)[1])
        step 19: unnormalized_input in net.0: largest RMS of an input feature is 808 (limit 30)

    References:
        LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp", section 4.3.
    """

    kind: ClassVar[str] = "unnormalized_input"
    page: ClassVar[str] = "data_and_loss"
    limit: float = 30.0
    name: str = "unnormalized_input"

    def __post_init__(self) -> None:
        require(self.limit > 0, "UnnormalizedInput(limit=...)", "must be positive", self.limit)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "standardize the inputs with the mean and deviation of the training data (fixes.normalize_inputs)"

    def observe(self, state: State, sample: ActivationStats) -> State:
        rms = np.hypot(sample.input_mean, sample.input_std)
        if state or not len(rms) or not np.isfinite(rms).all():
            return state
        return {"rms": float(rms.max()), "layer": sample.layers[0]}

    def judge(self, state: State, stats: GradStats) -> Finding | None:
        rms = state.get("rms", 0.0)
        if not rms > self.limit:
            return None
        detail = f"largest RMS of an input feature is {rms:.3g} (limit {self.limit:.3g})"
        return Finding(self.kind, stats.step, (state["layer"],), rms, self.limit, detail)
