"""ACT: meet a jump of the learning rate with a ramp."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_gradguard.findings import Finding
from lightning_gradguard.pending import PendingStep
from lightning_gradguard.remedies.base import AbstractRemedy


@dataclass(frozen=True)
class HoldLR(AbstractRemedy):
    """Scales the learning rate of this and the next steps down to the finding's limit.

    The factor grows back to 1 by itself after a time without findings, so a jump that was meant becomes a ramp.
    """

    def apply(self, finding: Finding, step: PendingStep) -> str:
        if step.cancelled:
            return ""
        step.lr_scale.reduce(finding.limit / finding.value)
        return f"held the learning rate at {finding.limit:.3g}"
