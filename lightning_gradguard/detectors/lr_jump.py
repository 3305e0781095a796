"""DIAGNOSE: a learning rate far above every one the run has had."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.stats import GradStats


@dataclass(frozen=True)
class LRJump(AbstractDetector):
    """Reports a step whose learning rate is more than `factor` times the highest one before it.

    A warm-up climbs by small ratios and a restart returns to where the schedule has been; a jump beyond that is a
    slip in a script or a schedule, and it is better met before the step than after.

    Args:
        factor: Ratio to the highest learning rate so far. Chosen.
        warmup: Steps that only learn: a linear warm-up from almost nothing begins with large ratios. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If `factor` is not above 1 or `warmup` not positive.

    Example:
        >>> detector = LRJump()
        >>> state = detector.init()
        >>> for step in range(30):
        ...     lr = 1e-3 if step < 29 else 1.0
        ...     state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, lr=lr))
        >>> print(*found)
        step 29: lr_jump: learning rate (1, limit 0.001)
    """

    kind: ClassVar[str] = "lr_jump"
    factor: float = 10.0
    warmup: int = 20
    name: str = "lr_jump"

    def __post_init__(self) -> None:
        require(self.factor > 1, "LRJump(factor=...)", "must be above 1", self.factor)
        require(self.warmup >= 1, "LRJump(warmup=...)", "must be at least 1", self.warmup)

    def init(self) -> State:
        return {"highest": 0.0, "seen": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        highest, seen = state["highest"], state["seen"]
        if not math.isfinite(stats.lr):
            return state, ()
        if seen >= self.warmup and stats.lr > self.factor * highest > 0:
            return state, (Finding(self.kind, stats.step, (), stats.lr, highest, "learning rate"),)
        return {"highest": max(highest, stats.lr), "seen": seen + 1}, ()
