"""DIAGNOSE: a loss that goes the wrong way and stays there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class Diverging(AbstractDetector):
    """Reports a run that is worse than when it began, or has lost more than half of what it had gained.

    Losses are averaged over blocks of 2 % of the planned steps and compared with their own scatter, so that neither
    the loss's unit nor a single bad batch matters. A learning rate or momentum that is too large does this.

    Args:
        name: Key of the state.

    Example:
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> gone = LossTrend(blocks=5, worse=True, start=2.6, best=2.6, last=9.0)
        >>> print(*Diverging().update({}, GradStats.of({"a": 1.0}, step=19, loss=9.1, loss_trend=gone))[1])
        step 19: diverging: loss, from its first level (9, limit 2.6)
    """

    ignore_cancelled: ClassVar[bool] = True
    only_on_extra_stats: ClassVar[bool] = True
    kind: ClassVar[str] = "diverging"
    name: str = "diverging"

    def init(self) -> State:
        return {}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        seen = stats.loss_trend
        if stats.loss is None or not seen.wrong:
            return state, ()
        limit, why = (seen.start, "first") if seen.worse else (seen.best, "best")
        return state, (Finding(self.kind, stats.step, (), seen.last, limit, f"loss, from its {why} level"),)
