"""ACT: do not follow a jump of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class CapLR(AbstractRemedy):
    """Lets no learning rate above the finding's limit, from this step on.

    Where the user's schedule is below the limit, or comes back below it, it is followed as it is.
    """

    def apply(self, finding: Finding, step: PendingStep) -> str:
        if step.cancelled:
            return ""
        step.lr_scale.cap(finding.limit)
        return f"held the learning rate at {finding.limit:.3g}"
