"""ACT: a smaller learning rate until the run recovers."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_gradguard.arguments import require_number
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class ReduceLR(AbstractRemedy):
    """Multiplies the learning rate by `factor`, down to `floor` times the user's schedule.

    Several reductions in a row compound, but only when a step was taken in between. After a number of healthy steps the
    learning rate recovers. The user's schedule is not modified (see `LRFactor`).

    Args:
        factor: Between 0 and 1. 0.1 as in `torch.optim.lr_scheduler.ReduceLROnPlateau`.
        floor: Smallest total factor. Default chosen.

    Raises:
        ValueError: If `factor` is not between 0 and 1, or `floor` not in (0, 1].
    """

    factor: float = 0.1
    floor: float = 1e-5

    def __post_init__(self) -> None:
        require_number("ReduceLR(factor=...)", self.factor, above=0, below=1)
        require_number("ReduceLR(floor=...)", self.floor, above=0, at_most=1)

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        change = step.reduce_lr(self.factor, self.floor)
        return self.did(f"reduced the learning-rate factor from {change[0]:.3g} to {change[1]:.3g}") if change else None
