"""DIAGNOSE: a symptom that is seen inside a batch."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from lightning_gradguard.collect.activation_stats import SAME, ActivationStats
from lightning_gradguard.collect.loss_trend import LossTrend
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State
from lightning_gradguard.findings import Finding


class ActivationDetector(AbstractDetector):
    """A symptom seen inside a batch that counts only when the run is hurt. Subclasses are final frozen dataclasses."""

    ignore_cancelled: ClassVar[bool] = True
    only_on_extra_stats: ClassVar[bool] = True

    def init(self) -> State:
        return {"seen": {}, "blocked": False}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.activation_stats is not None:
            state = {
                "seen": self.look(state["seen"], stats.activation_stats),
                "blocked": bool(stats.activation_stats.constant_layers(SAME)),
            }
        if not counts(stats.loss_trend, state["blocked"]):
            return state, ()
        finding = self.verdict(state["seen"], stats)
        return state, () if finding is None else (finding,)

    @abstractmethod
    def look(self, seen: State, probe: ActivationStats) -> State:
        """What has been seen after one more look."""

    @abstractmethod
    def verdict(self, seen: State, stats: GradStats) -> Finding | None:
        """The symptom, now that the run is hurt; None when this is not the cause."""


def counts(progress: LossTrend, blocked: bool) -> bool:
    """Whether what is seen is a symptom: the run is hurt, and it is not one that has learnt and still tells samples
    apart. A run that has converged may keep a layer that is mostly idle, raw inputs, or a memory of no use to it.
    """
    return progress.hurt and (blocked or not progress.learnt)
