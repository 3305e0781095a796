"""ACT: an adaptive step for every weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class SwitchToAdam(AbstractRemedy):
    """Gives a plain SGD Adam's update, through its own `step` (see `AdamUpdate`).

    Args:
        lr: Adam's learning rate; a schedule scales it in proportion. 1e-3 as in Kingma and Ba 2015.

    Raises:
        ValueError: If `lr` is not positive.

    References:
        Kingma and Ba 2015, arXiv 1412.6980. Zhang et al. 2021 (ICSE) cured 147 of 160 slow runs by another optimizer.
    """

    reversible: ClassVar[bool] = False
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"`SwitchToAdam(lr=...)` must be positive, got {self.lr!r}.")

    @property
    def name(self) -> str:
        return f"SwitchToAdam({self.lr:g})"

    def apply(self, finding: Finding, step: PendingStep) -> str:
        if (
            step.course is None
            or step.scaler is not None
            or not step.course.adaptive.begin(self.lr, step.lr_scale.user_lrs())
        ):
            return ""
        step.lr_scale.set_permanent(1.0)
        return f"Adam's update with learning rate {self.lr:g}"
