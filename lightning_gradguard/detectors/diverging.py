"""DIAGNOSE: a loss that goes the wrong way and stays there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.detectors.base import AbstractDetector, State
from lightning_gradguard.detectors.progress import NOTHING, follow, judge, renewed
from lightning_gradguard.findings import Finding
from lightning_gradguard.stats import GradStats


@dataclass(frozen=True)
class Diverging(AbstractDetector):
    """Reports a run that is worse than when it began, or has lost more than half of what it had gained.

    Losses are averaged over blocks of 2 % of the planned steps and compared with their own scatter, so that neither
    the loss's unit nor a single bad batch matters. A learning rate or momentum that is too large does this.

    Args:
        name: Key of the state.

    Example:
        >>> detector, state = Diverging(), Diverging().init()
        >>> for step in range(20):
        ...     loss = 2.6 if step < 3 else 9.0
        ...     state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=loss, budget=200))
        >>> print(*found)
        step 19: diverging: loss, from its first level (9, limit 2.6)
    """

    skips_cancelled: ClassVar[bool] = True
    kind: ClassVar[str] = "diverging"
    name: str = "diverging"

    def init(self) -> State:
        return {"loss": NOTHING}

    def renew(self, state: State, improved: bool) -> State:
        return {"loss": renewed(state["loss"], improved)}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        state = {"loss": follow(state["loss"], stats)}
        seen, means = judge(state["loss"]), state["loss"]["means"]
        if stats.loss is None or not seen.wrong:
            return state, ()
        first = state["loss"]["start"]
        limit, why = (first, "loss, from its first level") if seen.worse else (min(means), "loss, from its best level")
        return state, (Finding(self.kind, stats.step, (), means[-1], limit, why),)
