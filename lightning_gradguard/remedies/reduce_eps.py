"""ACT: a smaller epsilon in the denominator of an adaptive optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.arguments import require_number
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep

#: Above this only RMSprop has been used. Chosen.
FAR_ABOVE = 0.01


@dataclass(frozen=True)
class ReduceEps(AbstractRemedy):
    """Lowers an `eps` above `above` to `to`: one that exceeds the gradients takes the place of their scale.

    Args:
        above: Largest `eps` that is left alone. Default chosen.
        to: The new value. 1e-8 as in Kingma and Ba 2015, arXiv 1412.6980.

    Raises:
        ValueError: If `to` is not positive or above `above`.
    """

    cause: ClassVar[str] = "eps_too_large"
    only_corrects: ClassVar[bool] = True
    above: float = 1e-6
    to: float = 1e-8

    def __post_init__(self) -> None:
        require_number("ReduceEps(above=...)", self.above, above=0)
        require_number("ReduceEps(to=...)", self.to, above=0, at_most=self.above)

    def is_called_for(self, step: PendingStep) -> bool:
        """Whether an `eps` is above 0.01: published ones are at most 1e-3, but for RMSprop."""
        return any(
            "betas" in group and float(group.get("eps") or 0.0) > FAR_ABOVE for group in step.optimizer.param_groups
        )

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        reduced = []
        for group in step.optimizer.param_groups:
            eps = group.get("eps")
            if isinstance(eps, float) and eps > self.above:
                step.set_hyperparameters(group, eps=self.to)
                reduced.append(eps)
        return self.did(f"reduced eps from {reduced[0]:.3g} to {self.to:g}") if reduced else None
