"""COLLECT: statistics of one batch inside the model: layer by layer, unit by unit, and over time steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.collect.loss_calls import LossCall
from lightning_gradguard.modules.activations import IDENTITY, Traits
from lightning_gradguard.tensors.norms import Floats

#: Spread below which a layer's output counts as the same for all samples; its source stands in `Collapsed`.
MIN_SPREAD = 0.005


@dataclass(frozen=True, eq=False)
class ActivationRecord:
    """Statistics of one activation function in one batch.

    Args:
        layer: The layer that was called last before it.
        kind: torch's name of the function.
        flat: Share of elements whose slope is below 1 % of the steepest, in [0, 1]; 0 for a gate.
        dead: Units that are flat for every sample and position of the batch, `[U]`; empty for a gate.
        rows: Samples times positions in the batch.
        owner: Dotted name of the module whose `forward` made the call; empty when there is none.
        consumers: Layers that take its output directly, at most reshaped; those behind pooling or dropout are unknown.
        traits: Properties of the function with its settings at that time: its gain, and at which ends it is flat.
    """

    layer: str
    kind: str
    flat: float
    dead: NDArray[np.bool_]
    rows: int
    owner: str = ""
    consumers: tuple[str, ...] = ()
    traits: Traits = IDENTITY


@dataclass(frozen=True, eq=False)
class ActivationStats:
    """Statistics of one training batch inside the model.

    Args:
        layers: Layers in the order of their first call, `[L]`.
        output_rms: RMS of each layer's output, `[L]`; inf or NaN where it is not finite.
        spread: How much a layer's output differs between samples: standard deviation over the batch, divided by the
            RMS, `[L]`; NaN for a batch of one sample.
        last_input_spread: The same for the input of the layer called last, whatever path led there; NaN when unknown.
        grad_rms: RMS of the gradient of each layer's output, `[L]`; NaN where none arrived.
        identical_units: 1 where all units of a layer have the same output for every sample, else 0, `[L]`.
        activations: Every activation function, in the order of the calls.
        input_mean: Mean of each input feature of the first layer, `[F]`; empty for token ids.
        input_std: Its standard deviation over the batch, `[F]`.
        time: For each recurrent layer the RMS of the gradient of its input (for a cell: of its state) at each time
            step, `[T]`, earliest first.
        losses: The calls of loss functions.
    """

    layers: tuple[str, ...] = ()
    output_rms: Floats = field(default_factory=lambda: np.empty(0))
    spread: Floats = field(default_factory=lambda: np.empty(0))
    last_input_spread: float = math.nan
    grad_rms: Floats = field(default_factory=lambda: np.empty(0))
    identical_units: Floats = field(default_factory=lambda: np.empty(0))
    activations: tuple[ActivationRecord, ...] = ()
    input_mean: Floats = field(default_factory=lambda: np.empty(0))
    input_std: Floats = field(default_factory=lambda: np.empty(0))
    time: dict[str, Floats] = field(default_factory=dict)
    losses: tuple[LossCall, ...] = ()

    def constant_layers(self, min_spread: float) -> tuple[str, ...]:
        """Hidden layers whose spread is below `min_spread`, or whose one-sided activation is flat everywhere.

        The activation must have at least 32 elements: a few units may all be inactive for one sample.
        """
        constant = {self.layers[i] for i in np.flatnonzero(self.constant_mask(min_spread))}
        for a in self.activations if self.last_input_constant(min_spread) else ():
            if a.traits.one_sided and (a.layer,) != self.layers[-1:] and a.dead.all() and a.rows * len(a.dead) >= 32:
                constant.add(a.layer)
        return tuple(layer for layer in self.layers if layer in constant)

    def constant_mask(self, min_spread: float) -> NDArray[np.bool_]:
        """Which hidden layers have a spread below `min_spread`, `[L]`.

        None while the input of the last layer still differs between samples: then the signal took another path, such
        as a residual connection.
        """
        constant = self.spread < min_spread
        constant[-1:] = False
        return constant & self.last_input_constant(min_spread)

    def last_input_constant(self, min_spread: float) -> bool:
        """Whether the input of the last layer has a spread below `min_spread`; True when it is unknown."""
        return math.isnan(self.last_input_spread) or self.last_input_spread < min_spread

    @property
    def forward_decades(self) -> float:
        """Decades by which the output RMS grows from the first layer to the last; inf when an output overflows."""
        usable = self.output_rms[self.output_rms > 0]
        if not np.isfinite(self.output_rms).all():
            return math.inf
        return float(np.log10(usable[-1] / usable[0])) if len(usable) > 1 else 0.0


def decades_through_time(gradient: Floats) -> float:
    """Decades that a gradient gains from the last quarter of the sequence to the first; -inf where it vanishes.

    Args:
        gradient: RMS of the gradient at each time step, `[T]`, earliest first.

    Example:
        >>> decades_through_time(np.array([1e-6, 1e-4, 1e-2, 1.0]))
        -6.0
    """
    quarter = max(1, len(gradient) // 4)
    if len(gradient) < 4 or not np.isfinite(gradient).all():
        return 0.0
    early, late = float(gradient[:quarter].max()), float(gradient[-quarter:].max())
    return (math.log10(early / late) if early > 0 else -math.inf) if late > 0 else 0.0
