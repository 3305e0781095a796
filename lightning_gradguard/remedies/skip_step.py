"""ACT: skip a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class SkipStep(AbstractRemedy):
    """Cancels the step exactly: weights, optimizer state, buffers and metrics stay as if the batch had never been seen.

    Learning-rate schedules and `global_step` advance, as they do when a GradScaler skips a step. Random numbers that
    the forward pass has drawn stay drawn.
    """

    only_skips: ClassVar[bool] = True

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        if step.cancelled:
            return None
        step.cancel()
        return self.did("skipped the step")
