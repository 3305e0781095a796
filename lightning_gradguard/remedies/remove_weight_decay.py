"""ACT: no weight decay where it shrinks weights faster than they can be learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from lightning_gradguard.arguments import require_number
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.fixes.optimization import decay_rate
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep

#: Steps within which no weight of a published recipe decays: a hundredth of the strongest, 20,000. Chosen.
FAR = 200.0


@dataclass(frozen=True)
class RemoveWeightDecay(AbstractRemedy):
    """Removes the weight decay of parameter groups in which a weight decays within a few steps.

    Decay shrinks a weight by about `lr · weight_decay / (1 - momentum)` a step; the inverse is the time scale of the
    decay in steps.

    Args:
        memory: Shortest time scale in steps with which a weight can be learned. It is 100,000 with AdamW's defaults and
            20,000 in strong published settings (Krizhevsky et al. 2012: lr 0.01, momentum 0.9, decay 5e-4). Default
            chosen.

    Raises:
        ValueError: If `memory` is not positive.

    References:
        Wang and Aitchison 2024, arXiv 2405.13698 (time scale of weight decay).
    """

    cause: ClassVar[str] = "weight_decay_too_large"
    only_corrects: ClassVar[bool] = True
    memory: float = 100.0

    def __post_init__(self) -> None:
        require_number("RemoveWeightDecay(memory=...)", self.memory, above=0)

    def is_called_for(self, step: PendingStep) -> bool:
        """Whether a weight decays within 200 steps."""
        groups = step.optimizer.param_groups
        return any(decay_of(group) * decay_rate(group, step.lr_factor.base) > 1 / FAR for group in groups)

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        removed = []
        for group in step.optimizer.param_groups:
            decay = decay_of(group)
            if decay * decay_rate(group, step.lr_factor.base) > 1 / self.memory:
                step.set_hyperparameters(group, weight_decay=0.0)
                removed.append(decay)
        return self.did(f"removed a weight decay of {removed[0]:.3g}") if removed else None


def decay_of(group: dict[str, Any]) -> float:
    """A parameter group's weight decay; 0 without one."""
    return float(group.get("weight_decay", 0.0))
