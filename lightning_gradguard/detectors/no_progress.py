"""DIAGNOSE: a run that will not get there within its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.loss_trend import BLOCKS, LATE, SOON
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class NoProgress(AbstractDetector):
    """Reports a loss that has not fallen since the first steps.

    After 10 % of the planned steps when all steps together, each as large as the largest so far and all in one
    direction, could not move the weights by a third (`travel`): such a run cannot get anywhere. After 26 % whatever
    the cause.

    Args:
        travel: Update-to-weight ratio times planned steps below which a run cannot move. Healthy runs have at least
            0.7, runs with a learning rate far too small at most 0.15 (`benchmarks/repair`).
        name: Key of the state.

    Raises:
        ValueError: If `travel` is negative.

    Example:
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> stuck = LossTrend(blocks=13, flat=True, unmoved=True)
        >>> detector = NoProgress()
        >>> print(*detector.update(detector.init(), GradStats.of({"a": 1.0}, step=259, loss=0.69, loss_trend=stuck))[1])
        step 259: no_progress: the loss has not fallen, share of the steps (0.26, limit 0.26)
    """

    ignore_cancelled: ClassVar[bool] = True
    only_on_extra_stats: ClassVar[bool] = True
    kind: ClassVar[str] = "no_progress"
    travel: float = 0.3
    name: str = "no_progress"

    def __post_init__(self) -> None:
        require(self.travel >= 0, "NoProgress(travel=...)", "must not be negative", self.travel)

    def init(self) -> State:
        return {"ratio": None}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.update_ratio is not None and stats.lr > 0:
            state = {"ratio": max(state["ratio"] or 0.0, stats.global_update_ratio)}
        seen = stats.loss_trend
        if seen.blocks < SOON or stats.loss is None or not seen.unmoved or not stats.global_norm > 0:
            return state, ()  # a gradient of exactly zero is `Stalled`'s business
        travel = (
            state["ratio"] * stats.total_steps if stats.total_steps and state["ratio"] is not None else float("inf")
        )
        if travel < self.travel:
            why = "the updates are too small: reach of all of them relative to the weights"
            return state, (Finding(self.kind, stats.step, (), travel, self.travel, why),)
        if seen.blocks < LATE:
            return state, ()
        why = "the loss has not fallen, share of the steps"
        return state, (Finding(self.kind, stats.step, (), seen.blocks / BLOCKS, LATE / BLOCKS, why),)
