"""ACT: the learning rate with which updates have an ordinary size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_gradguard.arguments import require_number
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class ScaleLRToUpdateRatio(AbstractRemedy):
    """Scales the learning rate so that an update like the last sampled one has a norm of `share` times the weights'.

    For a run with several optimizers, where no single loss can rank trials.

    Args:
        share: Update-to-weight ratio. A healthy GAN under Adam begins with 0.01 (`benchmarks/repair`).

    Raises:
        ValueError: If `share` is not positive.
    """

    share: float = 0.01

    def __post_init__(self) -> None:
        require_number("ScaleLRToUpdateRatio(share=...)", self.share, above=0)

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        ratio = step.stats.global_update_ratio
        if not self.share < ratio < math.inf:
            return None
        step.set_lr_factor(step.lr_factor.base * self.share / ratio)
        return self.did(f"scaled the learning rate by {step.lr_factor.base:.3g} for the rest of the run")
