"""DIAGNOSE: NaN or Inf in the loss, a gradient or a buffer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class NonFinite(AbstractDetector):
    """Reports a loss, gradient or float buffer that is NaN or Inf, and says which.

    An overflow that a GradScaler handles by itself (Inf gradients, finite loss) is routine under fp16 and not
    reported. A norm that overflows while its gradient is finite is `Exploding`'s business.

    Example:
        >>> detector = NonFinite()
        >>> healthy = GradStats.of({"net.0": 1.0}, loss=0.5)
        >>> detector.update(detector.init(), healthy)[1]
        ()
        >>> sick = GradStats.of({"net.0": float("nan"), "net.2": 1.0}, step=3, loss=float("inf"))
        >>> print(*detector.update(detector.init(), sick)[1])
        step 3: nonfinite in net.0: loss and gradient (inf)
    """

    only_on_extra_stats: ClassVar[bool] = True
    kind: ClassVar[str] = "nonfinite"
    name: str = "nonfinite"

    def init(self) -> State:
        return {}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        bad_buffers = [n for n, norm in zip(stats.buffers, stats.buffer_norm, strict=True) if not math.isfinite(norm)]
        sources = {
            "loss": not stats.loss_finite,
            "gradient": not stats.finite and not stats.scaler_overflow,
            "buffer": bool(bad_buffers),
        }
        if not any(sources.values()):
            return state, ()
        sick = stats.layers.pick(~np.isfinite(stats.grad_norm)) if sources["gradient"] else ()
        value = stats.loss if sources["loss"] and stats.loss is not None else math.nan
        detail = " and ".join(source for source, bad in sources.items() if bad)
        layers = sick or (tuple(bad_buffers) if stats.loss_finite else ())
        return state, (Finding(self.kind, stats.step, layers, value, detail=detail),)
