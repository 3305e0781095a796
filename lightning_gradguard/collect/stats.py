"""COLLECT: what an optimizer is about to use, in numbers.

Statistics are small float64 numpy arrays on the host, one entry per layer in registration order, so that everything
after `collect` is pure arithmetic on plain values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.collect.layers import Layers, slope_weights
from lightning_gradguard.collect.loss_trend import UNTOLD, LossTrend
from lightning_gradguard.tensors.norms import Floats

if TYPE_CHECKING:
    from lightning_gradguard.collect.activation_stats import ActivationStats
    from lightning_gradguard.collect.batch_stats import BatchStats


@dataclass(frozen=True, eq=False)
class GradStats:
    """What one optimizer step is about to use, measured before any clipping.

    Args:
        step: Optimizer step of this fit, counted from 0.
        layers: The layers, `[L]`.
        grad_norm: L2 norm of each layer's gradient, `[L]`; 0 where it received none, NaN or inf where not finite.
        loss: Mean training loss of the step's batches; None when the loop showed none.
        lr: Largest learning rate the step will use, after any reduction by the guard.
        scaler_overflow: A GradScaler will skip this step by itself: routine under fp16, not a symptom.
        multiple_optimizers: Whether other optimizers train the same module too, so that its loss is not an objective.
        restored: Whether a rollback has just put these weights back: a symptom now is the data's, not theirs.
        buffers: Names of the float buffers that training changes (BatchNorm statistics), `[B]`.
        buffer_norm: Their L2 norms, `[B]`.
        param_norm: L2 norm of each layer's parameters before the last update, `[L]`; comes with `update_ratio`.
        update_ratio: Norm of the last update over `param_norm`, `[L]`; only on the step after a sampled one.
        trainable: Which layers have a parameter that may change (not frozen, not empty), `[L]`; comes with
            `update_ratio`.
        activation_stats: A look inside the batch (see `look`); only on sampled steps.
        total_steps: Optimizer steps that the run is meant to take; None when it has no end.
        loss_trend: What the losses up to this one say about the run.
        batch_stats: The samples of the batch; only on steps that a detector finds suspicious (see `wants_batch_stats`).

    Attributes:
        global_norm: L2 norm of all gradients as one vector; NaN where one is not finite.
        finite: Whether every gradient is finite.
        loss_finite: Whether the loss is finite; an unknown loss counts as finite.
        clean: Whether loss and gradients are finite and no scaler skips the step, so that it may enter a baseline.

    Example:
        >>> stats = GradStats.of({"net.0": 3.0, "net.2": 4.0}, step=5, loss=0.7)
        >>> stats.global_norm
        5.0
    """

    step: int
    layers: Layers
    grad_norm: Floats
    loss: float | None = None
    lr: float = math.nan
    scaler_overflow: bool = False
    multiple_optimizers: bool = False
    restored: bool = False
    buffers: tuple[str, ...] = ()
    buffer_norm: Floats = field(default_factory=lambda: np.empty(0))
    param_norm: Floats | None = None
    update_ratio: Floats | None = None
    trainable: NDArray[np.bool_] | None = None
    activation_stats: ActivationStats | None = None
    total_steps: int | None = None
    loss_trend: LossTrend = UNTOLD
    batch_stats: BatchStats | None = None
    global_norm: float = field(init=False, repr=False)
    finite: bool = field(init=False, repr=False)
    loss_finite: bool = field(init=False, repr=False)
    clean: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        norm = math.hypot(*self.grad_norm.tolist())
        finite = math.isfinite(norm) or bool(np.isfinite(self.grad_norm).all())
        loss_finite = self.loss is None or math.isfinite(self.loss)
        derived = {
            "global_norm": norm if finite else math.nan, "finite": finite, "loss_finite": loss_finite,
            "clean": finite and loss_finite and not self.scaler_overflow,
        }  # fmt: skip
        self.__dict__.update(derived)  # past the frozen `__setattr__`

    @classmethod
    def of(cls, grad_norm: Mapping[str, float], *, numel: int = 1, **fields: Any) -> GradStats:
        """Statistics written by hand, for tests and examples: every layer is a matrix of `numel` elements."""
        count = len(grad_norm)
        layers = Layers(tuple(grad_norm), np.full(count, numel), np.ones(count, bool))
        return cls(**{"step": 0, **fields}, layers=layers, grad_norm=np.array(list(grad_norm.values()), float))

    @cached_property
    def has_extra_stats(self) -> bool:
        """Whether there is more to see than in a healthy step: a look inside, a sample of the weights, a hurt run, or
        something that is not finite.
        """
        sound = self.clean and math.isfinite(sum(self.buffer_norm.tolist()))
        return not sound or self.loss_trend.hurt or self.activation_stats is not None or self.update_ratio is not None

    @cached_property
    def global_update_ratio(self) -> float:
        """Norm of the last sampled update of all layers over that of their parameters; NaN when not sampled."""
        if self.update_ratio is None or self.param_norm is None:
            return math.nan
        weight = float(np.linalg.norm(self.param_norm))
        return float(np.linalg.norm(self.update_ratio * self.param_norm)) / weight if weight else math.nan

    @cached_property
    def log_rms(self) -> Floats:
        """Log10 of each layer's root-mean-square gradient, `[L]`; -inf where the gradient is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log10(self.grad_norm) - self.layers.half_log_numel)

    @cached_property
    def depth_slope(self) -> float:
        """Decades of RMS gradient gained per layer from input to output; NaN with fewer than three matrix layers.

        Positive when gradients vanish on their way back to the input, negative when they explode.
        """
        places, weights = self.layers.deep
        if len(places) < 3:
            return math.nan
        heights = self.log_rms[places]
        slope = float(np.dot(weights, heights))
        if math.isfinite(slope):
            return slope
        usable = heights[np.isfinite(heights)]
        return float(np.dot(slope_weights(len(usable)), usable)) if len(usable) >= 3 else math.nan
