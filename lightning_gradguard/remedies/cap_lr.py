"""ACT: cap the learning rate at its highest value so far."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class CapLR(AbstractRemedy):
    """Caps the learning rate at the finding's limit from this step on.

    A schedule that is below the limit, or returns below it, is followed unchanged.
    """

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        return self.did(f"capped the learning rate at {finding.limit:.3g}") if step.cap_lr(finding.limit) else None
