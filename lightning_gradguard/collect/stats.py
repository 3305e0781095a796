"""COLLECT: the measurements of one optimizer step.

Statistics are small float64 numpy arrays on the host, one entry for each layer in registration order, so that all
later code is arithmetic on plain values.
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
from lightning_gradguard.collect.loss_trend import NO_TREND, LossTrend
from lightning_gradguard.renamed import renamed_attributes
from lightning_gradguard.tensors.norms import Floats

if TYPE_CHECKING:
    from lightning_gradguard.collect.activation_stats import ActivationStats
    from lightning_gradguard.collect.batch_stats import BatchStats

#: Mean loss of some batches with the present weights, with earlier ones, and the standard error of the difference.
Comparison = tuple[float, float, float]


@renamed_attributes(
    adversarial="multiple_optimizers", batch="batch_stats", budget="total_steps", occasion="has_extra_stats",
    overflow="scaler_overflow", probe="activation_stats", progress="loss_trend",
)  # fmt: skip
@dataclass(frozen=True, eq=False)
class GradStats:
    """The gradients, loss and learning rate of one optimizer step, measured before any clipping.

    Args:
        step: Optimizer step of this fit, counted from 0.
        layers: The layers, `[L]`.
        grad_norm: L2 norm of each layer's gradient, `[L]`; 0 where it received none, NaN or inf where not finite.
        loss: Mean training loss of the step's batches; None when unknown.
        lr: Largest learning rate of the step, after any reduction by the guard.
        eps: What Adam or RMSprop adds to the scale of the gradients before the update is divided by it; 0 for none.
        scaler_overflow: Whether a GradScaler will skip this step: routine under fp16, not a symptom.
        multiple_optimizers: Whether other optimizers train the same module, so that no loss is minimized by all.
        restored: Whether a rollback has just restored the weights, so that a symptom now comes from the data.
        buffers: Names of the float buffers that training changes (BatchNorm statistics), `[B]`.
        buffer_norm: Their L2 norms, `[B]`.
        param_norm: L2 norm of each layer's parameters before the last update, `[L]`; set together with `update_ratio`.
        update_ratio: Norm of the last update over `param_norm`, `[L]`; only on the step after a sampled one.
        trainable: Which layers have a parameter that is neither frozen nor empty, `[L]`; set together with
            `update_ratio`.
        activation_stats: Statistics inside the model; only on sampled steps.
        total_steps: Planned optimizer steps; None when the run has no end.
        loss_trend: What the losses up to this step show.
        batch_stats: Statistics of the batch's samples; only on steps where a detector `wants_batch_stats`.
        recheck: Loss of the last healthy batch when it was new, and measured again with the present weights; only on
            steps where a detector `wants_recheck`.
        comparison: Mean loss of the last batches with the present weights and with those of the newest snapshot, and
            the standard error of the difference; only on steps where a detector `wants_comparison`, or a finding about
            the loss could lead back to it.
        nonfinite_state: Layers whose weights or optimizer state hold NaN or Inf; only looked for when loss or gradients
            are not finite, and before a snapshot.
        first_nonfinite: The operation in which loss or gradient first was NaN or Inf, e.g. `"sqrt"`, and a text that
            names it with its module and source line; only on the first step that is not finite, where the step can be
            taken once more.
        weights_known_good: Whether no step was taken since the weights last gave a finite loss and gradient, or were
            restored, so that a symptom now comes from the data.
        group_norm: L2 norm of the gradients of each group of `GradGuard(groups=...)`; NaN where one is not finite.
        parts: Layers and `grad_norm` of each group with a clip of its own, by the group's regular expression.

    Attributes:
        global_norm: L2 norm of all gradients as one vector; NaN where one is not finite.
        finite: Whether every gradient is finite.
        loss_finite: Whether the loss is finite; an unknown loss counts as finite.
        clean: Whether loss and gradients are finite and no scaler skips the step, so that it may enter a baseline.
        has_extra_stats: Whether there is more to judge than on an ordinary step: activation statistics, a sampled
            update, something that is not finite, or a run that is stuck or regressing.

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
    eps: float = 0.0
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
    loss_trend: LossTrend = NO_TREND
    batch_stats: BatchStats | None = None
    recheck: tuple[float, float] | None = None
    comparison: Comparison | None = None
    nonfinite_state: tuple[str, ...] = ()
    first_nonfinite: tuple[str, ...] = ()
    weights_known_good: bool = False
    group_norm: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, tuple[Layers, Floats]] = field(default_factory=dict)
    global_norm: float = field(init=False, repr=False)
    finite: bool = field(init=False, repr=False)
    loss_finite: bool = field(init=False, repr=False)
    clean: bool = field(init=False, repr=False)
    has_extra_stats: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        norm = math.hypot(*self.grad_norm.tolist())
        finite = math.isfinite(norm) or bool(np.isfinite(self.grad_norm).all())
        loss_finite = self.loss is None or math.isfinite(self.loss)
        clean = finite and loss_finite and not self.scaler_overflow
        trend = self.loss_trend
        extra = (
            not clean or trend.is_stuck or trend.is_regressing or trend.never_decreased
            or self.activation_stats is not None or self.update_ratio is not None
            or not math.isfinite(sum(self.buffer_norm.tolist())) or self.nonfinite_state or self.recheck is not None
        )  # fmt: skip
        derived = {
            "global_norm": norm if finite else math.nan, "finite": finite, "loss_finite": loss_finite, "clean": clean,
            "has_extra_stats": bool(extra),
        }  # fmt: skip
        self.__dict__.update(derived)  # the dataclass is frozen: `__setattr__` raises

    @classmethod
    def of(cls, grad_norm: Mapping[str, float], *, numel: int = 1, **fields: Any) -> GradStats:
        """Statistics from given norms, for tests and examples: every layer is a matrix of `numel` elements."""
        count = len(grad_norm)
        layers = Layers(tuple(grad_norm), np.full(count, numel), np.ones(count, bool))
        return cls(**{"step": 0, **fields}, layers=layers, grad_norm=np.array(list(grad_norm.values()), float))

    @cached_property
    def global_update_ratio(self) -> float:
        """Norm of the sampled update over the norm of the parameters, all layers together; NaN when unknown.

        Layers whose parameters were all zero, and parameters without a matrix (scalars, biases, gains), do not count:
        their size says nothing about the size of a step that changes what the model computes.
        """
        if self.update_ratio is None or self.param_norm is None:
            return math.nan
        counts = self.layers.matrix & (self.param_norm > 0)
        weight, ratio = self.param_norm[counts], self.update_ratio[counts]
        with np.errstate(all="ignore"):
            return float(np.linalg.norm(ratio * weight) / np.linalg.norm(weight)) if len(weight) else math.nan

    @cached_property
    def global_param_norm(self) -> float:
        """L2 norm of all parameters as one vector; NaN when nothing was sampled."""
        with np.errstate(over="ignore"):
            return math.nan if self.param_norm is None else float(np.linalg.norm(self.param_norm))

    @cached_property
    def log_rms(self) -> Floats:
        """Log10 of each layer's root-mean-square gradient, `[L]`; -inf where the gradient is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log10(self.grad_norm) - self.layers.half_log_numel)

    @cached_property
    def depth_slope(self) -> float:
        """Decades by which the RMS gradient grows per layer from input to output, fitted by least squares.

        Positive when gradients vanish towards the input, negative when they explode. Layers with a zero gradient are
        left out; NaN when fewer than three layers with a weight matrix remain.
        """
        places, weights = self.layers.deep
        heights = self.log_rms[places]
        usable = heights[np.isfinite(heights)]
        if len(usable) < 3:
            return math.nan
        return float(np.dot(weights if len(usable) == len(heights) else slope_weights(len(usable)), usable))
