"""DIAGNOSE: a learning rate that no optimizer accepts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class InvalidLR(AbstractDetector):
    """Reports a learning rate that is negative, NaN or Inf.

    Optimizers refuse such a rate when they are created, but a schedule can set it later. One step with it makes the
    weights NaN, or ascends the loss.

    Args:
        name: Key of the state.

    Example:
        >>> detector = InvalidLR()
        >>> print(*detector.update(detector.init(), GradStats.of({"a": 1.0}, step=7, lr=-0.1))[1])
        step 7: invalid_lr: learning rate is -0.1
    """

    kind: ClassVar[str] = "invalid_lr"
    page: ClassVar[str] = "learning_rate"
    ignore_cancelled: ClassVar[bool] = True
    name: str = "invalid_lr"

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return f"look at what the schedule of the learning rate does at step {finding.step}"

    def init(self) -> State:
        return {}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if not (stats.lr < 0 or math.isinf(stats.lr)):  # NaN: the optimizer has no learning rate
            return state, ()
        shown = f"{stats.lr:.3g}" if math.isfinite(stats.lr) else "not finite"
        return state, (Finding(self.kind, stats.step, (), stats.lr, 0.0, f"learning rate is {shown}"),)
