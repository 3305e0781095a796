"""ACT: go back to weights that were known to be good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class Rollback(AbstractRemedy):
    """Cancels the step and puts parameters, buffers, optimizer state and scaler back to the newest snapshot, in place.

    A snapshot is taken just before an optimizer step whose loss and gradients, measured on these very weights, were
    healthy. When nothing was stepped since the weights were last good, they cannot be at fault: then the step is only
    skipped. The data, the schedule, `global_step` and random numbers go on, so the offending batches are left behind.
    """

    uses_snapshots: ClassVar[bool] = True

    def apply(self, finding: Finding, step: PendingStep) -> str:
        snapshot = step.restore()
        if snapshot is None:
            return "skipped the step (the weights are not at fault)" if not step.damage else "skipped the step"
        return f"rolled back to step {snapshot.step}"
