"""ACT: clip the gradient to the norm that is usual for the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class AdaptiveClip(AbstractRemedy):
    """Scales all gradients so that their global norm equals the finding's limit; the direction stays.

    Where no earlier norm gives a limit, the step is skipped.

    References:
        Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063 (clipping by norm).
    """

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        before = step.norm
        if math.isnan(finding.limit) and not step.cancelled:
            step.cancel()
            return self.did("skipped the step: there is no earlier gradient norm to clip to")
        if not step.clip_to(finding.limit):
            return None
        return self.did(f"clipped the gradient norm from {before:.3g} to {finding.limit:.3g}")
