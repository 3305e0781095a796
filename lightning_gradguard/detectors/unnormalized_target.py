"""DIAGNOSE: targets of a regression that are not normalized."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.loss_calls import REGRESSION
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class UnnormalizedTarget(ActivationDetector):
    """Reports targets of a regression far from mean 0 and standard deviation 1, while the run is stuck or regressing.

    An output layer with weights of the usual size gives numbers near 1; it has to grow to the scale of the targets
    first, and the gradients are as large as they are.

    Args:
        limit: Largest absolute value of nine tenths of the targets. As for inputs (`UnnormalizedInput`).
        name: Key of the state.

    Raises:
        ValueError: If `limit` is not positive.

    Example:
        >>> from lightning_gradguard.collect.loss_calls import LossCall
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> sample = ActivationStats(losses=(LossCall("mse_loss", target_scale=400.0),))
        >>> detector, stuck = UnnormalizedTarget(), LossTrend(is_stuck=True)
        >>> stats = GradStats.of({"net.0": 1.0}, step=9, loss=1.6e5, loss_trend=stuck, activation_stats=sample)
        >>> print(*detector.update(detector.init(), stats)[1])
        step 9: unnormalized_target: a tenth of the targets is above 400 (limit 30): train on standardized targets
    """

    kind: ClassVar[str] = "unnormalized_target"
    page: ClassVar[str] = "data_and_loss"
    limit: float = 30.0
    name: str = "unnormalized_target"

    def __post_init__(self) -> None:
        require(self.limit > 0, "UnnormalizedTarget(limit=...)", "must be positive", self.limit)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "train on (target - mean) / deviation, with the mean and deviation of the training data"

    def observe(self, state: State, sample: ActivationStats) -> State:
        scale = max((c.target_scale for c in sample.losses if c.function in REGRESSION), default=math.nan)
        return {"scale": scale} if math.isfinite(scale) else state

    def judge(self, state: State, stats: GradStats) -> Finding | None:
        scale = state.get("scale", 0.0)
        if not scale > self.limit:
            return None
        detail = f"a tenth of the targets is above {scale:.3g} (limit {self.limit:.3g}): train on standardized targets"
        return Finding(self.kind, stats.step, (), scale, self.limit, detail)
