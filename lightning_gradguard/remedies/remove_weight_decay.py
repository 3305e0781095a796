"""ACT: no weight decay where it forgets faster than anything can be learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Finding
from lightning_gradguard.fixes.optimization import decay_rate
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class RemoveWeightDecay(AbstractRemedy):
    """Takes the weight decay away from parameter groups that forget a weight within a few steps.

    Decay shrinks a weight by about `lr · weight_decay / (1 - momentum)` a step; its inverse is how many steps a weight
    is remembered.

    Args:
        memory: Steps below which nothing can be learnt. AdamW's defaults remember 100,000, strong published settings
            (Krizhevsky et al. 2012: lr 0.01, momentum 0.9, decay 5e-4) 20,000. Chosen: 100.

    Raises:
        ValueError: If `memory` is not positive.

    References:
        Wang and Aitchison 2024, arXiv 2405.13698 (the time that a decay remembers).
    """

    reversible: ClassVar[bool] = False
    cures: ClassVar[str] = "weight_decay_too_large"
    memory: float = 100.0

    def __post_init__(self) -> None:
        if self.memory <= 0:
            raise ValueError(f"`RemoveWeightDecay(memory=...)` must be positive, got {self.memory!r}.")

    def apply(self, finding: Finding, step: PendingStep) -> str:
        words = ""
        for group in step.optimizer.param_groups:
            decay = float(group.get("weight_decay", 0.0))
            if decay * decay_rate(group, step.lr_scale.base) > 1 / self.memory:
                group["weight_decay"] = 0.0
                words = words or f"weight decay {decay:.3g} taken away"
        return words
