"""ACT: begin again inside the run."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class Restart(AbstractRemedy):
    """Restores the initial weights with an empty optimizer state; steps, data and schedule go on.

    For use inside a `TryEach`, together with what is to be different this time.
    """

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        return self.did("restored the initial weights") if step.restart() else None
