"""ACT: leave a step out."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class SkipStep(AbstractRemedy):
    """Cancels the step exactly: weights, optimizer state, buffers and metrics stay as if the batch had not been.

    Learning-rate schedules and `global_step` go on, as they do when a GradScaler skips. Random numbers that the
    forward pass drew stay drawn.
    """

    def apply(self, finding: Finding, step: PendingStep) -> str:
        step.cancel()
        return "skipped the step"
