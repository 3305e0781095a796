"""ACT: shorten a gradient to the length that is usual for the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class AdaptiveClip(AbstractRemedy):
    """Scales all gradients so that their global norm equals the finding's limit; the direction stays.

    References:
        Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063 (clipping by norm).
    """

    def apply(self, finding: Finding, step: PendingStep) -> str:
        norm = step.stats.global_norm * step.clip_coefficient
        if step.cancelled or not (math.isfinite(finding.limit) and norm > finding.limit):
            return ""
        step.scale_gradients(finding.limit / norm)
        return f"clipped the gradient norm from {norm:.3g} to {finding.limit:.3g}"
