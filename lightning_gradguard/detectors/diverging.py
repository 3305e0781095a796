"""DIAGNOSE: a loss that rises and does not come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, lower_lr
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class Diverging(AbstractDetector):
    """Reports a loss that is far above its start, or has lost more than half of its progress.

    Losses are averaged over blocks of 2 % of the planned steps and compared relative to their scatter, so that neither
    the unit of the loss nor a single bad batch matters. Typical causes are a learning rate or a momentum that is too
    high. The exact rules and their limits are those of `LossTrend.is_regressing`.

    Args:
        name: Key of the state.

    Example:
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> trend = LossTrend(is_regressing=True, above_start=True, start=2.6, best=2.6, last=9.0)
        >>> stats = GradStats.of({"a": 1.0}, step=19, loss=9.1, loss_trend=trend)
        >>> print(*Diverging().update({}, stats)[1])
        step 19: diverging: mean loss is 9, up from 2.6 on the first step
    """

    ignore_cancelled: ClassVar[bool] = True
    only_on_extra_stats: ClassVar[bool] = True
    only_about_loss: ClassVar[bool] = True
    kind: ClassVar[str] = "diverging"
    page: ClassVar[str] = "learning_rate"
    name: str = "diverging"

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return f"{lower_lr(stats)}, or warm it up (torch.optim.lr_scheduler.LinearLR)"

    def init(self) -> State:
        return {}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        trend = stats.loss_trend
        if stats.loss is None or not trend.is_regressing:
            return state, ()
        limit, where = (trend.start, "on the first step") if trend.above_start else (trend.best, "at its best")
        detail = f"mean loss is {trend.last:.3g}, up from {limit:.3g} {where}"
        return state, (Finding(self.kind, stats.step, (), trend.last, limit, detail),)
