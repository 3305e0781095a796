"""DIAGNOSE: the base class of symptoms in the activation statistics."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State
from lightning_gradguard.findings import Finding


class ActivationDetector(AbstractDetector):
    """Looks for a symptom in the activation statistics, and reports it only while the run is stuck or regressing.

    Many healthy runs have saturated layers, inactive units or unscaled inputs. Subclasses are final frozen dataclasses.
    """

    ignore_cancelled: ClassVar[bool] = True
    only_on_extra_stats: ClassVar[bool] = True

    def init(self) -> State:
        return {}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.activation_stats is not None:
            state = self.observe(state, stats.activation_stats)
        if not (stats.loss_trend.is_stuck or stats.loss_trend.is_regressing):
            return state, ()
        finding = self.judge(state, stats)
        return state, () if finding is None else (finding,)

    @abstractmethod
    def observe(self, state: State, sample: ActivationStats) -> State:
        """The state after one more sample of activation statistics."""

    @abstractmethod
    def judge(self, state: State, stats: GradStats) -> Finding | None:
        """The finding on a step of a run that is stuck or regressing; None when the symptom is absent."""
