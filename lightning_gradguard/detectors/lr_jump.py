"""DIAGNOSE: a learning rate far above every one the run has had."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class LRJump(AbstractDetector):
    """Reports a learning rate far above every one before it, when the step would be large for the weights.

    A jump is a slip in a script or a schedule, or it is meant: a warm-up that climbs once an epoch may begin with a
    thousandth. What tells them apart is how far the step would go. The last sampled update-to-weight ratio, scaled by
    the learning rate, says so before the step is taken.

    Args:
        factor: Ratio to the highest learning rate so far. Chosen.
        reach: Update-to-weight ratio that the new learning rate would bring. Healthy runs stayed below 0.06 after their
            first steps (`benchmarks/calibrate.py`).
        warmup: Steps that only learn: a linear warm-up from almost nothing begins with large ratios. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If `factor` is not above 1, or `reach` or `warmup` not positive.

    Example:
        >>> import numpy as np
        >>> detector = LRJump()
        >>> state = detector.init()
        >>> sample = dict(param_norm=np.array([10.0]), update_ratio=np.array([2e-3]))
        >>> for step in range(30):
        ...     lr = 1e-3 if step < 29 else 1.0
        ...     state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, lr=lr, **sample))
        >>> print(*found)
        step 29: lr_jump: learning rate (1, limit 0.001)
    """

    kind: ClassVar[str] = "lr_jump"
    factor: float = 10.0
    reach: float = 0.1
    warmup: int = 20
    name: str = "lr_jump"

    def __post_init__(self) -> None:
        require(self.factor > 1, "LRJump(factor=...)", "must be above 1", self.factor)
        require(self.reach > 0, "LRJump(reach=...)", "must be positive", self.reach)
        require(self.warmup >= 1, "LRJump(warmup=...)", "must be at least 1", self.warmup)

    def init(self) -> State:
        return {"highest": 0.0, "last": 0.0, "pace": 0.0, "seen": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if not math.isfinite(stats.lr):
            return state, ()
        ratio, highest = stats.global_update_ratio, state["highest"]
        pace = ratio / state["last"] if math.isfinite(ratio) and state["last"] > 0 else state["pace"]
        jump = stats.lr > self.factor * highest > 0 and stats.lr * pace > self.reach
        if state["seen"] >= self.warmup and jump:
            return {**state, "pace": pace}, (Finding(self.kind, stats.step, (), stats.lr, highest, "learning rate"),)
        return {"highest": max(highest, stats.lr), "last": stats.lr, "pace": pace, "seen": state["seen"] + 1}, ()
