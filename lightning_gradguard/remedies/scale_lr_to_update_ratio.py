"""ACT: the learning rate whose updates have an ordinary size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class ScaleLRToUpdateRatio(AbstractRemedy):
    """Scales the learning rate for good, so that an update like the last sampled one is `share` of the weights.

    For a run in which no loss can judge a trial (several optimizers).

    Args:
        share: Update-to-weight ratio. A healthy GAN under Adam begins with 0.01 (`benchmarks/repair`).

    Raises:
        ValueError: If `share` is not positive.
    """

    reversible: ClassVar[bool] = False
    share: float = 0.01

    def __post_init__(self) -> None:
        if self.share <= 0:
            raise ValueError(f"`ScaleLRToUpdateRatio(share=...)` must be positive, got {self.share!r}.")

    def apply(self, finding: Finding, step: PendingStep) -> str:
        ratio = step.stats.global_update_ratio
        if not self.share < ratio < math.inf:
            return ""
        return f"learning rate x {step.lr_scale.set_permanent(step.lr_scale.base * self.share / ratio):.3g}"
