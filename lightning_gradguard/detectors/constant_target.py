"""DIAGNOSE: targets that are the same class for every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class ConstantTarget(AbstractDetector):
    """Reports classes that are the same for all samples of a batch, in every batch that was looked at.

    Either the labels are lost on their way to the loss, or the data are sorted by class and not shuffled. The finding
    is repeated until another batch is seen.

    Args:
        samples: Batches that must show it. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If `samples` is not positive.

    Example:
        >>> from lightning_gradguard.collect.activation_stats import ActivationStats
        >>> from lightning_gradguard.collect.loss_calls import LossCall
        >>> sample = ActivationStats(losses=(LossCall("cross_entropy", constant=True),))
        >>> detector = ConstantTarget(samples=2)
        >>> state = detector.init()
        >>> for step in range(2):
        ...     stats = GradStats.of({"net.0": 1.0}, step=step, activation_stats=sample)
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 1: constant_target: all targets are the same class, in each of 2 batches: check the labels and shuffle
    """

    kind: ClassVar[str] = "constant_target"
    samples: int = 3
    name: str = "constant_target"

    def __post_init__(self) -> None:
        require(self.samples >= 1, "ConstantTarget(samples=...)", "must be positive", self.samples)

    def init(self) -> State:
        return {"seen": 0, "other": False}

    def renew(self, state: State, improved: bool) -> State:
        return state  # the targets are still the same

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        calls = () if stats.activation_stats is None else stats.activation_stats.losses
        if calls and not state["other"]:
            state = {"seen": state["seen"] + 1, "other": not any(call.constant for call in calls)}
        if state["other"] or state["seen"] < self.samples:
            return state, ()
        detail = f"all targets are the same class, in each of {state['seen']} batches: check the labels and shuffle"
        return state, (Finding(self.kind, stats.step, (), state["seen"], self.samples, detail),)
