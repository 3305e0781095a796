"""ACT: smaller steps for a while."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class ReduceLR(AbstractRemedy):
    """Multiplies the learning rate by `factor`, not below `floor` of the user's schedule.

    Several in a row compound, but only when a step was taken in between. The factor recovers by itself after a time
    without findings. The user's schedule is never touched (see `LRFactor`).

    Args:
        factor: Between 0 and 1. 0.1 as in `torch.optim.lr_scheduler.ReduceLROnPlateau`.
        floor: Smallest total factor. Chosen.

    Raises:
        ValueError: If `factor` is not between 0 and 1, or `floor` not in (0, 1].
    """

    factor: float = 0.1
    floor: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ValueError(f"`ReduceLR(factor=...)` must be between 0 and 1, got {self.factor!r}.")
        if not 0 < self.floor <= 1:
            raise ValueError(f"`ReduceLR(floor=...)` must be in (0, 1], got {self.floor!r}.")

    def apply(self, finding: Finding, step: PendingStep) -> str:
        before = step.lr_scale.factor
        after = step.scale_lr(self.factor, self.floor)
        return f"LR factor {before:.3g} to {after:.3g}" if after != before else f"LR factor stays at {after:.3g}"
