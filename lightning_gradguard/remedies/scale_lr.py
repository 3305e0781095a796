"""ACT: another learning rate for the rest of the run."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_gradguard.arguments import require, require_number
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class ScaleLR(AbstractRemedy):
    """Multiplies the user's learning rate by `factor` for the rest of the run.

    The user's schedule is not modified (see `LRFactor`).

    Args:
        factor: Above 1 for a run that is too slow, below 1 for one that overshoots.

    Raises:
        ValueError: If `factor` is not positive, or is 1.
    """

    factor: float = 10.0

    def __post_init__(self) -> None:
        require_number("ScaleLR(factor=...)", self.factor, above=0)
        require(self.factor != 1, "ScaleLR(factor=...)", "must not be 1", self.factor)

    @property
    def cause(self) -> str:  # type: ignore[override]
        return "lr_too_small" if self.factor > 1 else "lr_too_large"

    @property
    def only_corrects(self) -> bool:  # type: ignore[override]
        return self.factor < 1

    @property
    def name(self) -> str:
        return f"ScaleLR({self.factor:g})"

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        step.set_lr_factor(step.lr_factor.base * self.factor)
        return self.did(f"scaled the learning rate by {step.lr_factor.base:g} for the rest of the run")
