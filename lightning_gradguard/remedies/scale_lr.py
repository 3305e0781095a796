"""ACT: another learning rate for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class ScaleLR(AbstractRemedy):
    """Multiplies the user's learning rate by `factor` from here on; it does not grow back by itself.

    The user's schedule is never touched (see `LRFactor`).

    Args:
        factor: Above 1 for a run that is too slow, below 1 for one that overshoots.

    Raises:
        ValueError: If `factor` is not positive, or is 1.
    """

    reversible: ClassVar[bool] = False
    factor: float = 10.0

    def __post_init__(self) -> None:
        if self.factor <= 0 or self.factor == 1:
            raise ValueError(f"`ScaleLR(factor=...)` must be positive and not 1, got {self.factor!r}.")

    @property
    def cures(self) -> str:  # type: ignore[override]
        return "lr_too_small" if self.factor > 1 else "lr_too_large"

    @property
    def name(self) -> str:
        return f"ScaleLR({self.factor:g})"

    def apply(self, finding: Finding, step: PendingStep) -> str:
        return f"learning rate x {step.lr_scale.set_permanent(step.lr_scale.base * self.factor):g}"
