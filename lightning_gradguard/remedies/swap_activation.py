"""ACT: other activations in the hidden layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.modules.surgery import like
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

    cause: ClassVar[str] = "unsuited_activation"
    new: str = "SELU"
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(getattr(nn, self.new, None), type):
            raise ValueError(f"`SwapActivation(new=...)` must be the name of a class in torch.nn, got {self.new!r}.")

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        if step.module is None or step.activation_stats is None:
            return None
        last, new = step.activation_stats.layers[-1], getattr(nn, self.new)
        hidden = {a.owner: a.kind for a in step.activation_stats.activations if a.layer != last and a.owner}
        swapped = []
        for owner, kind in hidden.items():
            old = step.module.get_submodule(owner)
            if self.only and kind not in self.only:
                continue
            if list(old.children()) or any(p.ndim >= 2 for p in old.parameters()) or type(old) is new:
                continue
            step.replace_module(owner, like(step.module, new()))
            swapped.append(kind)
        return self.did(f"replaced {len(swapped)} activations ({swapped[0]}) by {self.new}") if swapped else None
