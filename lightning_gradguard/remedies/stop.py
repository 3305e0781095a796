"""ACT: end training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class Stop(AbstractRemedy):
    """Restores the newest snapshot and ends training with a reason; the incident is then `unrecoverable`."""

    uses_snapshots: ClassVar[bool] = True

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        step.stop(f"{finding.kind} persisted after all remedies; last finding: {finding}")
        restored = f" and restored the weights of step {step.restored.step}" if step.restored else ""
        return self.did(f"stopped training{restored}")
