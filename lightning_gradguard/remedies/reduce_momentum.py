"""ACT: a smaller momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.arguments import require_number
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep

#: Published recipes have at most this. Chosen.
FAR_ABOVE = 0.99


@dataclass(frozen=True)
class ReduceMomentum(AbstractRemedy):
    """Lowers a momentum (SGD's, or Adam's first beta) above `above` to `to`.

    A momentum of m averages over 1/(1 - m) steps and multiplies the learning rate by as much.

    Args:
        above: Largest momentum that is left alone. Default chosen.
        to: The new value. 0.9 is the common default of published recipes.

    Raises:
        ValueError: If `to` is above `above`.
    """

    cause: ClassVar[str] = "momentum_too_large"
    only_corrects: ClassVar[bool] = True
    above: float = 0.95
    to: float = 0.9

    def __post_init__(self) -> None:
        require_number("ReduceMomentum(above=...)", self.above, at_least=0, below=1)
        require_number("ReduceMomentum(to=...)", self.to, at_least=0, at_most=self.above)

    def is_called_for(self, step: PendingStep) -> bool:
        """Whether a momentum is above 0.99, the largest of published recipes."""
        return any(
            max(float(group.get("momentum", 0.0)), float(group.get("betas", (0.0,))[0])) > FAR_ABOVE
            for group in step.optimizer.param_groups
        )

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        changes = []
        for group in step.optimizer.param_groups:
            if (momentum := float(group.get("momentum", 0.0))) > self.above:
                step.set_hyperparameters(group, momentum=self.to)
                changes.append(f"momentum from {momentum:g} to {self.to:g}")
            if "betas" in group and (beta := float(group["betas"][0])) > self.above:
                step.set_hyperparameters(group, betas=(self.to, *group["betas"][1:]))
                changes.append(f"beta1 from {beta:g} to {self.to:g}")
        return self.did(f"reduced {changes[0]}") if changes else None
