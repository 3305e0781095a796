"""COLLECT: what one look inside a batch has seen: through depth, into each unit, and through time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.tensors.norms import Floats

#: Activations that level off on both sides: a unit in the flat part is saturated, not silent.
SATURATING = frozenset(("sigmoid", "expit", "tanh", "hardtanh", "hardsigmoid", "softsign", "relu6"))
#: Activations that level off on one side at (almost) zero: a unit that stays there is dead.
ONE_SIDED = frozenset(
    ("relu", "gelu", "silu", "elu", "selu", "celu", "softplus", "threshold", "mish", "hardswish", "exp")
)
#: Difference between samples below which a layer passes nothing on; measured for `Collapsed`.
SAME = 0.005


@dataclass(frozen=True, eq=False)
class ActivationRecord:
    """One activation in one look.

    Args:
        layer: The layer whose output it takes; the latest one called before it.
        kind: torch's name of the function.
        flat: Share of elements whose slope is below 1 % of the steepest, in [0, 1].
        dead: Units flat at every sample and position of the batch, `[U]`.
        rows: Samples times positions that each unit has seen.
        owner: Dotted name of the module whose `forward` made the call; empty when there is none.
        consumers: Layers that take its very output, at most reshaped; those behind pooling or dropout are not known.
    """

    layer: str
    kind: str
    flat: float
    dead: NDArray[np.bool_]
    rows: int
    owner: str = ""
    consumers: tuple[str, ...] = ()

    @property
    def saturating(self) -> bool:
        """Whether it levels off on both sides."""
        return self.kind in SATURATING


@dataclass(frozen=True, eq=False)
class ActivationStats:
    """One look inside a training batch.

    Args:
        layers: Layers in the order of their first call, `[L]`.
        output_rms: RMS of each layer's output, `[L]`; inf or NaN where it is not finite.
        spread: How much a layer's output differs between samples: deviation over the batch, relative to its RMS
            after the mean over units is taken out, `[L]`; NaN for a single sample.
        last_input_spread: The same for what reaches the last layer, whatever way it took; NaN when unknown.
        grad_rms: RMS of the gradient of each layer's output, `[L]`; NaN where none arrived.
        identical_units: Largest share of a layer's units that give the same output at every sample, `[L]`.
        activations: Every activation, in the order of the calls.
        input_mean: Mean of each feature that reaches the first layer, `[F]`; empty for token ids.
        input_std: Its standard deviation over the batch, `[F]`.
        time: For each recurrent layer the RMS of the gradient of its input (of its state, for a cell) at each time
            step, `[T]`, earliest first.
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

    def constant_layers(self, spread: float) -> tuple[str, ...]:
        """Hidden layers that tell samples apart by less than `spread`, or whose activation is flat everywhere.

        The latter counts from 32 elements on: a few units may all be silent for one sample.
        """
        same = {self.layers[i] for i in np.flatnonzero(self.constant_mask(spread))}
        for a in self.activations if self.blocked(spread) else ():
            if a.kind in ONE_SIDED and (a.layer,) != self.layers[-1:] and a.dead.all() and a.rows * len(a.dead) >= 32:
                same.add(a.layer)
        return tuple(layer for layer in self.layers if layer in same)

    def constant_mask(self, spread: float) -> NDArray[np.bool_]:
        """Which hidden layers tell samples apart by less than `spread`, so that what follows cannot either, `[L]`.

        None does while what reaches the last layer still tells them apart: the signal went around, as it does around
        the branches of a residual net.
        """
        same = self.spread < spread
        same[-1:] = False
        return same & self.blocked(spread)

    def blocked(self, spread: float) -> bool:
        """Whether what reaches the last layer differs between samples by less than `spread`."""
        if math.isnan(self.last_input_spread):
            return True
        return self.last_input_spread < spread

    @property
    def forward_decades(self) -> float:
        """Decades that the output RMS gains from the first layer to the last; inf when it overflows on the way."""
        usable = self.output_rms[self.output_rms > 0]
        if not np.isfinite(self.output_rms).all():
            return math.inf
        return float(np.log10(usable[-1] / usable[0])) if len(usable) > 1 else 0.0


def decades_through_time(gradient: Floats) -> float:
    """Decades that a gradient gains from the last quarter of the sequence back to the first; -inf where it is lost.

    Example:
        >>> decades_through_time(np.array([1e-6, 1e-4, 1e-2, 1.0]))
        -6.0
    """
    quarter = max(1, len(gradient) // 4)
    if len(gradient) < 4 or not np.isfinite(gradient).all():
        return 0.0
    early, late = float(gradient[:quarter].max()), float(gradient[-quarter:].max())
    return (math.log10(early / late) if early > 0 else -math.inf) if late > 0 else 0.0
