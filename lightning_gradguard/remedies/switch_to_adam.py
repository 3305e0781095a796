"""ACT: Adam's update for a plain SGD."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_gradguard.arguments import require_number
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class SwitchToAdam(AbstractRemedy):
    """Gives a plain SGD Adam's update, through the SGD's own `step` (see `AdamUpdate`).

    Args:
        lr: Adam's learning rate; a schedule scales it in proportion. 1e-3 as in Kingma and Ba 2015.

    Raises:
        ValueError: If `lr` is not positive.

    References:
        Kingma and Ba 2015, arXiv 1412.6980. Zhang et al. 2021 (ICSE) cured 147 of 160 slow runs by another optimizer.
    """

    lr: float = 1e-3

    def __post_init__(self) -> None:
        require_number("SwitchToAdam(lr=...)", self.lr, above=0)

    @property
    def name(self) -> str:
        return f"SwitchToAdam({self.lr:g})"

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        if not step.switch_to_adam(self.lr):
            return None
        return self.did(f"switched SGD to Adam's update with a learning rate of {self.lr:g}")
