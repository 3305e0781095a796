"""DIAGNOSE: a learning rate far above all earlier ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require, times
from lightning_gradguard.findings import Finding
from lightning_gradguard.renamed import renamed_fields


@renamed_fields(reach="update_ratio")
@dataclass(frozen=True)
class LRJump(AbstractDetector):
    """Reports a learning rate far above all earlier ones, on a step that would be large relative to the weights.

    A jump may be an error in a script or a schedule, or intended: a warmup by epochs may begin with a thousandth of the
    final rate. The size of the coming step tells them apart. It is estimated before the step is taken, as the last
    sampled update-to-weight ratio scaled by the learning rate.

    Args:
        factor: Ratio to the highest learning rate so far. Chosen, not measured.
        update_ratio: Update-to-weight ratio that the new learning rate would cause. Healthy runs stayed below 0.06
            after their first steps (`python benchmarks/calibrate.py`).
        warmup: First steps, which report nothing: a linear warmup from almost zero begins with large ratios. Chosen,
            not measured.
        name: Key of the state.

    Raises:
        ValueError: If `factor` is not above 1, or `update_ratio` or `warmup` not positive.

    Example:
        >>> import numpy as np
        >>> detector = LRJump()
        >>> state = detector.init()
        >>> sample = dict(param_norm=np.array([10.0]), update_ratio=np.array([2e-3]))
        >>> for step in range(30):
        ...     lr = 1e-3 if step < 29 else 1.0
        ...     state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, lr=lr, **sample))
        >>> print(*found)
        step 29: lr_jump: learning rate is 1, 1,000 times the highest before (limit 0.001)
    """

    kind: ClassVar[str] = "lr_jump"
    page: ClassVar[str] = "learning_rate"
    factor: float = 10.0
    update_ratio: float = 0.1
    warmup: int = 20
    name: str = "lr_jump"

    def __post_init__(self) -> None:
        require(self.factor > 1, "LRJump(factor=...)", "must be above 1", self.factor)
        require(self.update_ratio > 0, "LRJump(update_ratio=...)", "must be positive", self.update_ratio)
        require(self.warmup >= 1, "LRJump(warmup=...)", "must be at least 1", self.warmup)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        highest = f"; the highest rate before was {finding.limit:.3g}" if finding.limit > 0 else ""
        return f"look at what the schedule of the learning rate does at step {finding.step}{highest}"

    def init(self) -> State:
        return {"highest": 0.0, "last": 0.0, "ratio_per_lr": 0.0, "seen": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if not math.isfinite(stats.lr):
            return state, ()
        highest, ratio_per_lr = state["highest"], state["ratio_per_lr"]
        if stats.update_ratio is not None and state["last"] > 0 and math.isfinite(stats.global_update_ratio):
            ratio_per_lr = stats.global_update_ratio / state["last"]
        jump = stats.lr > self.factor * highest and stats.lr * ratio_per_lr > self.update_ratio
        if state["seen"] >= self.warmup and jump:
            detail = f"learning rate is {stats.lr:.3g}, {times(stats.lr, highest)} times the highest before"
            finding = Finding(self.kind, stats.step, (), stats.lr, highest, f"{detail} (limit {highest:.3g})")
            return {**state, "ratio_per_lr": ratio_per_lr}, (finding,)
        highest, seen = max(highest, stats.lr), state["seen"] + 1
        return {"highest": highest, "last": stats.lr, "ratio_per_lr": ratio_per_lr, "seen": seen}, ()
