"""ACT: initial weights of another length and the same directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.fixes.initialization import LAYERS
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep

#: Activations that are 0 at 0.
_NOTHING_OF_NOTHING = frozenset(
    ("relu", "relu6", "gelu", "silu", "elu", "selu", "celu", "mish", "hardswish", "tanh", "hardtanh", "softsign")
)


@dataclass(frozen=True)
class RescaleLayers(AbstractRemedy):
    """Goes back to the initial weights and multiplies each layer's, so that every layer's output has an RMS of 1.

    The directions that the user drew stay. One look at the very first batch is enough where each layer takes the
    output of the one before through ReLUs, leaky or not, at most with pooling between: a layer's weight is multiplied
    by 1 over its RMS and by the RMS of the layer before, its bias by 1 over its RMS. Activations that bend away from
    a line through 0 are met only about; those that are not 0 at 0 (sigmoid, softplus, exp) not at all, and nothing
    is done. Nor is it in a net with layers that are neither linear nor convolutions, and where the first look is not
    known any more (a run resumed from a checkpoint).

    Unlike `Reinitialize` it corrects a drawing's length only: neither a mean other than 0 nor units that are all alike.

    References:
        Mishkin and Matas 2016, arXiv 1511.06422 (LSUV), without its orthogonal matrices.
    """

    cause: ClassVar[str] = "poor_initialization"

    @torch.no_grad()
    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        stats, module = step.first_activation_stats, step.module
        if stats is None or module is None:
            return None
        modules = dict(module.named_modules())
        layers = [modules.get(name) for name in stats.layers]
        if not scalable(stats, layers) or not step.restart():
            return None
        before = 1.0
        for layer, rms in zip(layers, stats.output_rms, strict=True):
            scale_layer(layer, before / float(rms), 1 / float(rms))
            before = float(rms)
        low, high = stats.output_rms.min(), stats.output_rms.max()
        return self.did(f"rescaled {len(layers)} layers from an output RMS between {low:.3g} and {high:.3g} to 1")


def scalable(look: ActivationStats, layers: Sequence[Any]) -> bool:
    """Whether every layer can be scaled, and every activation is 0 at 0."""
    plain = all(isinstance(layer, LAYERS) and "weight" in layer._parameters for layer in layers)
    sound = bool(np.isfinite(look.output_rms).all() and (look.output_rms > 0).all())
    return plain and sound and {a.kind for a in look.activations if a.layer != look.layers[-1]} <= _NOTHING_OF_NOTHING


def scale_layer(layer: Any, weight: float, bias: float) -> None:
    """Multiplies a layer's weight and its bias."""
    layer.weight.mul_(weight)
    if layer.bias is not None:
        layer.bias.mul_(bias)
