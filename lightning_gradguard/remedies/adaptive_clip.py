"""ACT: clip the gradient to the norm that is usual for the run."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class AdaptiveClip(AbstractRemedy):
    """Scales all gradients so that their global norm equals the finding's limit; the direction stays.

    References:
        Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063 (clipping by norm).
    """

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        before = step.norm
        if not step.clip_to(finding.limit):
            return None
        return self.did(f"clipped the gradient norm from {before:.3g} to {finding.limit:.3g}")
