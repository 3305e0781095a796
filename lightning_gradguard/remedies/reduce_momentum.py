"""ACT: a momentum that forgets in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class ReduceMomentum(AbstractRemedy):
    """Lowers a momentum (SGD's, or Adam's first beta) above `above` to `to`.

    A momentum of m remembers 1/(1 - m) steps and multiplies the learning rate by as much.

    Args:
        above: Left alone up to here. Chosen.
        to: The new value; 0.9 is the usual one.

    Raises:
        ValueError: If `to` is above `above`.
    """

    reversible: ClassVar[bool] = False
    cures: ClassVar[str] = "momentum_too_large"
    above: float = 0.95
    to: float = 0.9

    def __post_init__(self) -> None:
        if self.to > self.above:
            raise ValueError(f"`ReduceMomentum(to=...)` must not exceed above={self.above!r}, got {self.to!r}.")

    def apply(self, finding: Finding, step: PendingStep) -> str:
        words = ""
        for group in step.optimizer.param_groups:
            if float(group.get("momentum", 0.0)) > self.above:
                words = f"momentum {group['momentum']:g} to {self.to:g}"
                group["momentum"] = self.to
            if "betas" in group and float(group["betas"][0]) > self.above:
                words = f"beta1 {group['betas'][0]:g} to {self.to:g}"
                group["betas"] = (self.to, *group["betas"][1:])
        return words
