"""ACT: rescale the initial weights and keep their directions."""

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
from lightning_gradguard.step.model_changes import expression
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class RescaleLayers(AbstractRemedy):
    """Restores the initial weights and rescales each layer, so that its output on the first batch has an RMS of 1.

    The directions of the initial weights stay. A layer's weight is multiplied by the RMS of the previous layer's output
    over that of its own, its bias by 1 over the RMS of its own output. This is exact where each layer takes the output
    of the previous one through ReLU or leaky ReLU, with or without pooling, and approximate for other activations that
    map 0 to 0. Nothing is done for activations that do not (sigmoid, softplus, exp), for gates, for models with layers
    other than Linear and convolutions, and in a run resumed from a checkpoint, where the statistics of the first batch
    are unknown.

    Unlike `Reinitialize` it changes the scale only: neither the mean of the weights nor units that are identical.

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
        for name, layer, rms in zip(stats.layers, layers, stats.output_rms, strict=True):
            scale_layer(layer, before / float(rms), 1 / float(rms))
            step.record(f"{expression(name)}.weight.data *= {before / float(rms):.6g}")
            before = float(rms)
        low, high = stats.output_rms.min(), stats.output_rms.max()
        return self.did(f"rescaled {len(layers)} layers from an output RMS between {low:.3g} and {high:.3g} to 1")


def scalable(stats: ActivationStats, layers: Sequence[Any]) -> bool:
    """Whether every layer can be scaled, and every hidden activation is elementwise and maps 0 to 0."""
    plain = all(isinstance(layer, LAYERS) and "weight" in layer._parameters for layer in layers)
    nonzero = bool(np.isfinite(stats.output_rms).all() and (stats.output_rms > 0).all())
    hidden = [a.traits for a in stats.activations if a.layer != stats.layers[-1]]
    return plain and nonzero and all(traits.elementwise and traits.zero_at_zero for traits in hidden)


def scale_layer(layer: Any, weight: float, bias: float) -> None:
    """Multiplies a layer's weight and its bias."""
    layer.weight.mul_(weight)
    if layer.bias is not None:
        layer.bias.mul_(bias)
