"""DIAGNOSE: NaN or Inf in the loss, a gradient or a buffer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, advise_on_samples
from lightning_gradguard.findings import Finding

#: Operations that leave their domain, by torch's names, and what to write instead.
STAYS_FINITE = {
    "acos": "acos(x.clamp(-1 + 1e-6, 1 - 1e-6))",
    "asin": "asin(x.clamp(-1 + 1e-6, 1 - 1e-6))",
    "div": "x / (y + 1e-8)",
    "exp": "exp(x.clamp(max=80))",
    "log": "log_softmax instead of log(softmax(x)), or log(x.clamp(min=1e-6)),",
    "pow": "(x + 1e-8) ** y",
    "reciprocal": "1 / (x + 1e-8)",
    "rsqrt": "rsqrt(x + 1e-8)",
    "sqrt": "sqrt(x + 1e-8)",
}


@dataclass(frozen=True)
class NonFinite(AbstractDetector):
    """Reports a loss, a gradient or a float buffer that contains NaN or Inf.

    Gradients that overflow under a GradScaler while the loss is finite are routine in fp16 and not reported. A norm
    that overflows although its gradient is finite is reported by `Exploding`, weights that are not finite by
    `NonFiniteState`.

    Args:
        name: Key of the state.

    Example:
        >>> detector = NonFinite()
        >>> healthy = GradStats.of({"net.0": 1.0}, loss=0.5)
        >>> detector.update(detector.init(), healthy)[1]
        ()
        >>> broken = GradStats.of({"net.0": float("nan"), "net.2": 1.0}, step=3, loss=float("inf"))
        >>> print(*detector.update(detector.init(), broken)[1])
        step 3: nonfinite in net.0: loss is inf, gradient is not finite
    """

    only_on_extra_stats: ClassVar[bool] = True
    kind: ClassVar[str] = "nonfinite"
    page: ClassVar[str] = "nonfinite"
    name: str = "nonfinite"

    def advise(self, finding: Finding, stats: GradStats) -> str:
        if advice := advise_on_samples(stats):
            return advice
        if stats.first_nonfinite:
            operation, where = stats.first_nonfinite
            instead = STAYS_FINITE.get(operation)
            return f"look at {where}" + (f": {instead} stays finite" if instead else "")
        if not stats.loss_finite:
            return "look for log(0), a division by 0 or exp of a large number on the way to the loss"
        return "look for sqrt or a norm at 0, whose gradient is infinite, and for an overflow in half precision"

    def init(self) -> State:
        return {}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        buffers = [n for n, norm in zip(stats.buffers, stats.buffer_norm, strict=True) if not math.isfinite(norm)]
        if stats.nonfinite_state:  # whatever else is not finite follows from it
            return state, ()
        bad_gradient = not stats.finite and not stats.scaler_overflow
        if stats.loss_finite and not bad_gradient and not buffers:
            return state, ()
        value = stats.loss if not stats.loss_finite and stats.loss is not None else math.nan
        layers = stats.layers.pick(~np.isfinite(stats.grad_norm)) if bad_gradient else ()
        if not layers and stats.loss_finite:
            layers = tuple(buffers)
        clauses = [] if stats.loss_finite else [f"loss is {value}"]
        clauses += ["gradient is not finite"] if bad_gradient else []
        clauses += ["buffer is not finite"] if buffers else []
        clauses += [f"first in {stats.first_nonfinite[1]}"] if stats.first_nonfinite else []
        return state, (Finding(self.kind, stats.step, layers, value, detail=", ".join(clauses)),)
