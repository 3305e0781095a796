"""ACT: drop fewer activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from lightning_gradguard.arguments import require_number
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.model_changes import NewModule
from lightning_gradguard.step.pending_step import PendingStep

#: What is looked for; a subclass may hold more than a probability.
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
#: Published recipes drop at most this share. Chosen.
FAR_ABOVE = 0.8


@dataclass(frozen=True)
class ReduceDropout(AbstractRemedy):
    """Lowers the probability of the dropout modules above `above` to `to`; dropout that is no module stays.

    Args:
        above: Largest probability that is left alone. Default: that of hidden units in Srivastava et al. 2014.
        to: The new probability. Default as in Vaswani et al. 2017, arXiv 1706.03762.

    Raises:
        ValueError: If `to` is above `above`.

    References:
        Srivastava et al. 2014 (JMLR 15).
    """

    only_model: ClassVar[bool] = True
    cause: ClassVar[str] = "dropout_too_large"
    above: float = 0.5
    to: float = 0.1

    def __post_init__(self) -> None:
        require_number("ReduceDropout(above=...)", self.above, at_least=0, below=1)
        require_number("ReduceDropout(to=...)", self.to, at_least=0, at_most=self.above)

    def is_called_for(self, step: PendingStep) -> bool:
        """Whether a dropout probability is above 0.8, the largest of published recipes."""
        return any(layer.p > FAR_ABOVE for layer in dropouts(step.module).values())

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        high = {name: layer for name, layer in dropouts(step.module).items() if layer.p > self.above}
        for name, layer in high.items():
            step.replace_module(name, NewModule(type(layer).__name__, {"p": self.to}))
        largest = max((layer.p for layer in high.values()), default=0.0)
        return self.did(f"reduced dropout from {largest:.3g} to {self.to:g} in {len(high)} layers") if high else None


def dropouts(module: nn.Module | None) -> dict[str, Any]:
    """The dropout modules of torch in a module, by their dotted name."""
    layers = module.named_modules() if module is not None else ()
    return {name: layer for name, layer in layers if type(layer) in DROPOUTS}
