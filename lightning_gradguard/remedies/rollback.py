"""ACT: go back to weights that are known to be good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class Rollback(AbstractRemedy):
    """Cancels the step and restores parameters, buffers, optimizer state and scaler from the newest snapshot, in place.

    A snapshot is taken just before an optimizer step whose loss and gradients, measured on these very weights, were
    healthy. When no step was taken since the weights were last good, the step is only skipped. The data, the schedule,
    `global_step` and random numbers go on, so the offending batches are not seen again.

    Args:
        only_if_learned: Do nothing where the snapshot's loss is not a tenth below the first ones. Such a run needs
            another remedy.
    """

    uses_snapshots: ClassVar[bool] = True
    only_if_learned: bool = False

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        if self.only_if_learned and not step.has_learned:
            return None
        was_cancelled = step.cancelled
        snapshot = step.restore()
        if snapshot is not None:
            return self.did(f"rolled back to step {snapshot.step}")
        if was_cancelled:
            return None
        why = "there is no snapshot yet" if step.weights_changed else "the weights are unchanged since they were good"
        return self.did(f"skipped the step: {why}")
