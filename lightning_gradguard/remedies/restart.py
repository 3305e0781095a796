"""ACT: begin again inside the run, with what has been learnt about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class Restart(AbstractRemedy):
    """Puts the weights of the first step back, with an empty optimizer state; steps, data and schedule go on.

    Only inside a `TryEach`, together with what is to be different this time.
    """

    reversible: ClassVar[bool] = False

    def apply(self, finding: Finding, step: PendingStep) -> str:
        return step.course.restart() if step.course is not None else ""
