"""DIAGNOSE: a loss that has not decreased since the first steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.loss_trend import BLOCKS, NO_PROGRESS_AFTER
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding

#: Largest update-to-weight ratio times planned steps that healthy runs have at least (`NoProgress`).
ENOUGH = 0.7


@dataclass(frozen=True)
class NoProgress(AbstractDetector):
    """Reports a loss that has not decreased since the first steps.

    After 10 % of the planned steps it is reported if the updates are too small: all planned steps together, each as
    large as the largest so far and all in one direction, would move the weights by less than `travel` of their norm.
    After 26 % it is reported whatever the cause. (A gradient of exactly zero is reported by `Stalled`.)

    Args:
        travel: Largest update-to-weight ratio times planned steps. On the runs of `python benchmarks/repair` healthy
            ones had at least 0.7, ones with a learning rate far too small at most 0.15.
        name: Key of the state.

    Raises:
        ValueError: If `travel` is negative.

    Example:
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> trend, steps = LossTrend(blocks=13, is_stuck=True, never_decreased=True), dict(step=259, total_steps=1000)
        >>> stats = GradStats.of({"a": 1.0}, loss=0.69, loss_trend=trend, **steps)
        >>> detector = NoProgress()
        >>> print(*detector.update(detector.init(), stats)[1])
        step 259: no_progress: loss has not decreased after 26 % of the planned steps
    """

    ignore_cancelled: ClassVar[bool] = True
    only_on_extra_stats: ClassVar[bool] = True
    kind: ClassVar[str] = "no_progress"
    page: ClassVar[str] = "no_progress"
    travel: float = 0.3
    name: str = "no_progress"

    def __post_init__(self) -> None:
        require(self.travel >= 0, "NoProgress(travel=...)", "must not be negative", self.travel)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        if finding.limit == self.travel and finding.value > 0 and stats.lr > 0:
            return f"raise the learning rate from {stats.lr:.2g} to about {stats.lr * ENOUGH / finding.value:.1g}"
        return "try another learning rate, or Adam (doctor(module, loader) measures both before a run)"

    def init(self) -> State:
        return {"ratio": None}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if not math.isnan(stats.global_update_ratio) and stats.lr > 0:
            state = {"ratio": max(state["ratio"] or 0.0, stats.global_update_ratio)}
        blocks, total = stats.loss_trend.blocks, stats.total_steps
        if not stats.loss_trend.never_decreased or stats.loss is None or not stats.global_norm > 0:
            return state, ()
        travel = state["ratio"] * total if total and state["ratio"] is not None else float("inf")
        if travel < self.travel:
            reach = f"all planned steps together move the weights by at most {travel:.3g} of their norm"
            detail = f"loss has not decreased and the updates are too small: {reach} (limit {self.travel:.3g})"
            return state, (Finding(self.kind, stats.step, (), travel, self.travel, detail),)
        if blocks < NO_PROGRESS_AFTER:
            return state, ()
        steps = stats.step + 1
        after = f"{100 * steps / total:.0f} % of the planned steps" if total else f"{steps:,} steps"
        limit, detail = NO_PROGRESS_AFTER / BLOCKS, f"loss has not decreased after {after}"
        return state, (Finding(self.kind, stats.step, (), blocks / BLOCKS, limit, detail),)
