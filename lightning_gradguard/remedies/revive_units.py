"""ACT: re-initialize units that died."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gradguard.arguments import require_number
from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.fixes.initialization import glorot, he
from lightning_gradguard.modules.activations import Traits
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.gains import traits_after
from lightning_gradguard.step.pending_step import PendingStep

#: Layers whose weight has the units in its first dimension and the inputs in its second.
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class ReviveUnits(AbstractRemedy):
    """Re-initializes the incoming weights of dead units; what the other units have learned stays.

    A hidden unit is dead when it was inactive for every sample of the latest activation statistics. Its incoming
    weights are drawn as by `Reinitialize`, its bias becomes 0, and its weights in the layers that take its output
    become 0, so that the outputs of the model do not change; these weights are learned again. Layers behind pooling or
    dropout are not known and are not changed. The optimizer's state of all these weights is reset.

    The number of the step is the seed, and the run's random state is not changed. A unit that the bias of a
    normalization layer keeps inactive is not revived.

    Args:
        rows: Samples times positions from which on an inactive unit counts as dead, at least 1. Default as in
            `DeadUnits`.

    Raises:
        ValueError: If `rows` is not positive.

    References:
        Sokar, Agarwal, Castro and Evci 2023, arXiv 2302.12902, algorithm 1.
    """

    cause: ClassVar[str] = "dead_units"
    rows: int = 20

    def __post_init__(self) -> None:
        require_number("ReviveUnits(rows=...)", self.rows, at_least=1, whole=True)

    @torch.no_grad()
    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        module, stats = step.module, step.activation_stats
        if module is None or stats is None:
            return None
        modules, count, touched = dict(module.named_modules()), 0, 0
        for i, (name, dead, consumers) in enumerate(self._dead(stats)):
            layer: Any = modules.get(name)
            if not is_trainable(layer) or len(layer.weight) != len(dead):
                continue
            units = torch.from_numpy(np.flatnonzero(dead)).to(layer.weight.device)
            redraw(layer, units, traits_after(module, name, stats), seed=1000 * finding.step + i)
            for p in layer.parameters(recurse=False):
                step.reset_optimizer_state(p, units)
            for consumer in consumers:
                disconnect(modules.get(consumer), units, len(dead), step)
            count, touched = count + len(units), touched + 1
        return self.did(f"re-initialized {count} dead units of {touched} layers") if count else None

    def _dead(self, stats: ActivationStats) -> Iterator[tuple[str, NDArray[np.bool_], list[str]]]:
        """Each hidden layer with dead units, which units are dead, and the layers that take its output."""
        for name in stats.layers[:-1]:
            after = [a for a in stats.activations if a.layer == name]
            known = all(a.traits.one_sided and a.rows >= self.rows and len(a.dead) == len(after[0].dead) for a in after)
            if not after or not known:
                continue
            dead = np.logical_and.reduce([a.dead for a in after])
            if dead.any():
                yield name, dead, list(dict.fromkeys(consumer for a in after for consumer in a.consumers))


def is_trainable(layer: Any) -> bool:
    """Whether a layer's weight is trained and not parametrized."""
    return isinstance(layer, _LAYERS) and "weight" in layer._parameters and layer.weight.requires_grad


def redraw(layer: Any, units: Tensor, traits: Traits, seed: int) -> None:
    """Draws the incoming weights of `units` and sets their biases to 0."""
    fresh = copy.deepcopy(layer)
    (glorot if traits.saturating else he)(fresh, gain=traits.gain, seed=seed)
    layer.weight[units] = fresh.weight[units]
    if layer.bias is not None:
        layer.bias[units] = 0.0


def disconnect(consumer: Any, units: Tensor, count: int, step: PendingStep) -> None:
    """Sets a layer's weights of some of its inputs to 0.

    Args:
        consumer: The layer; nothing happens when it has no suitable weight.
        units: Which outputs of the layer before it, `[dead]`.
        count: Number of outputs of the layer before it; each is a channel of several inputs after flattening.
        step: Resets the optimizer's state of these weights.
    """
    if not is_trainable(consumer) or getattr(consumer, "groups", 1) != 1 or consumer.weight.shape[1] % count:
        return
    each = consumer.weight.shape[1] // count
    columns = (units[:, None] * each + torch.arange(each, device=units.device)).flatten()
    consumer.weight[:, columns] = 0.0
    step.reset_optimizer_state(consumer.weight, (slice(None), columns))
