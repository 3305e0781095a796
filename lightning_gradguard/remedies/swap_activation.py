"""ACT: other activations in the hidden layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lightning_gradguard.findings import Finding
from lightning_gradguard.modules.surgery import like, replace_module
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class SwapActivation(AbstractRemedy):
    """Exchanges every hidden activation that is a module of its own for another one; the output's stays.

    SELU keeps mean and variance through many layers by itself, which neither ReLU (it dies) nor a sigmoid (it
    saturates) does.

    Args:
        new: Class of the new activation in `torch.nn`.
        only: Exchange only these kinds, in torch's words; all when empty.

    Raises:
        ValueError: If `torch.nn` has no such class.

    References:
        Klambauer et al. 2017, arXiv 1706.02515. Zhang et al. 2021 (ICSE) cured 35 of 48 vanishing and 47 of 54
        exploding models by another activation.
    """

    reversible: ClassVar[bool] = False
    cures: ClassVar[str] = "unsuited_activation"
    new: str = "SELU"
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(getattr(nn, self.new, None), type):
            raise ValueError(f"`SwapActivation(new=...)` must be the name of a class in torch.nn, got {self.new!r}.")

    def apply(self, finding: Finding, step: PendingStep) -> str:
        if step.module is None or step.look is None:
            return ""
        last = step.look.layers[-1]
        hidden = {a.owner: a.kind for a in step.look.activations if a.layer != last and a.owner}
        swapped = []
        for owner, kind in hidden.items():
            old = step.module.get_submodule(owner)
            if self.only and kind not in self.only:
                continue
            if list(old.children()) or any(p.ndim >= 2 for p in old.parameters()) or type(old).__name__ == self.new:
                continue
            replace_module(step.module, owner, like(step.module, getattr(nn, self.new)()))
            swapped.append(kind)
        return f"{len(swapped)} activations ({swapped[0]}) exchanged for {self.new}" if swapped else ""
