"""ACT: give up, honestly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class Stop(AbstractRemedy):
    """Puts the newest snapshot back and ends training with a verdict in words."""

    uses_snapshots: ClassVar[bool] = True

    def apply(self, finding: Finding, step: PendingStep) -> str:
        step.stop(f"unrecoverable: {finding.kind} goes on after every remedy in its ladder; last: {finding}")
        kept = f"with the weights of step {step.restored.step}" if step.restored else "with the last good weights"
        return f"stopped training {kept}"
