"""ACT: another start for units that died."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradguard.arguments import require_number
from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.fixes.initialization import glorot, he
from lightning_gradguard.modules.activations import Traits
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.gains import traits_after
from lightning_gradguard.step.pending_step import PendingStep

#: Layers whose first weight dimension is their units, and whose second is their input's.
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class ReviveUnits(AbstractRemedy):
    """Draws the incoming weights of dead units anew; what the living ones have learnt stays.

    Dead is a hidden unit that was silent at every sample of the latest look. Its weights are drawn as `Reinitialize`
    draws them, its bias becomes 0, and its weights into the layers that take its output become 0, so that the net's
    answers are not disturbed: these layers let it in again by learning. Where pooling or dropout lies between, they
    are not known and stay as they are. The optimizer forgets the moments of all these weights.

    Numbers are drawn from the step's number as seed, apart from the run's own random state. A unit that a
    normalisation's own bias keeps silent is not revived by this.

    Args:
        rows: Samples, times positions, below which a silent unit of a look says nothing; as in `DeadUnits`. Chosen.

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
        for i, (name, dead, takers) in enumerate(self._dead(stats)):
            layer: Any = modules.get(name)
            if not drawable(layer) or len(layer.weight) != len(dead):
                continue
            units = torch.from_numpy(np.flatnonzero(dead)).to(layer.weight.device)
            redraw(layer, units, traits_after(module, name, stats), seed=1000 * finding.step + i)
            for p in layer.parameters(recurse=False):
                step.reset_optimizer_state(p, units)
            for taker in takers:
                shut_out(modules.get(taker), units, len(dead), step)
            count, touched = count + len(units), touched + 1
        return self.did(f"re-initialized {count} dead units of {touched} layers") if count else None

    def _dead(self, look: ActivationStats) -> Iterator[tuple[str, np.ndarray, list[str]]]:
        """Each hidden layer that has dead units, which they are, and the layers that take its output."""
        for name in look.layers[:-1]:
            after = [a for a in look.activations if a.layer == name]
            sure = all(a.traits.one_sided and a.rows >= self.rows and len(a.dead) == len(after[0].dead) for a in after)
            if not after or not sure:
                continue
            dead = np.logical_and.reduce([a.dead for a in after])
            if dead.any():
                yield name, dead, list(dict.fromkeys(taker for a in after for taker in a.consumers))


def drawable(layer: Any) -> bool:
    """Whether a layer owns a plain weight that is in training."""
    return isinstance(layer, _LAYERS) and "weight" in layer._parameters and layer.weight.requires_grad


def redraw(layer: Any, units: Tensor, traits: Traits, seed: int) -> None:
    """Draws the incoming weights of `units`, and makes their biases 0."""
    fresh = copy.deepcopy(layer)
    (glorot if traits.saturating else he)(fresh, gain=traits.gain, seed=seed)
    layer.weight[units] = fresh.weight[units]
    if layer.bias is not None:
        layer.bias[units] = 0.0


def shut_out(taker: Any, units: Tensor, of: int, step: PendingStep) -> None:
    """Zeroes the weights that take in `units` of a layer with `of` units, flattened channel by channel if at all."""
    if not drawable(taker) or getattr(taker, "groups", 1) != 1 or taker.weight.shape[1] % of:
        return
    each = taker.weight.shape[1] // of
    columns = (units[:, None] * each + torch.arange(each, device=units.device)).flatten()
    taker.weight[:, columns] = 0.0
    step.reset_optimizer_state(taker.weight, (slice(None), columns))
