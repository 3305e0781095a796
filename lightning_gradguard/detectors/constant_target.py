"""DIAGNOSE: targets that are the same class for every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class ConstantTarget(AbstractDetector):
    """Reports targets that are the same class in the whole batch, in every batch that was looked at.

    Where the class differs from batch to batch, the data are sorted and not shuffled. Where it is always the same, the
    labels are lost on their way to the loss, or the other classes are rare, so that more batches have to show it. The
    finding is repeated until another batch is seen.

    Args:
        samples: Batches of different classes that must show it. Chosen.
        same: Batches of the same class that must show it. Chosen: where one sample of a hundred is of another class, a
            batch of 32 is of one class in 72 % of all cases, 20 of 20 are in 0.2 %.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> from lightning_gradguard.collect.activation_stats import ActivationStats
        >>> from lightning_gradguard.collect.loss_calls import LossCall
        >>> detector = ConstantTarget(samples=2)
        >>> state = detector.init()
        >>> for step in range(2):
        ...     sample = ActivationStats(losses=(LossCall("cross_entropy", constant=step),))
        ...     stats = GradStats.of({"net.0": 1.0}, step=step, activation_stats=sample)
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 1: constant_target: all targets are one class in each of 2 batches: check the labels and shuffle
    """

    kind: ClassVar[str] = "constant_target"
    page: ClassVar[str] = "data_and_loss"
    samples: int = 3
    same: int = 20
    name: str = "constant_target"

    def __post_init__(self) -> None:
        for field in ("samples", "same"):
            require(getattr(self, field) >= 1, f"ConstantTarget({field}=...)", "must be positive", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "shuffle the data (DataLoader(shuffle=True)), and print the targets of a few batches"

    def init(self) -> State:
        return {"seen": 0, "first": -1, "differ": False, "other": False}

    def renew(self, state: State, improved: bool) -> State:
        return state  # the targets are still the same

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        calls = () if stats.activation_stats is None else stats.activation_stats.losses
        if calls and not state["other"]:
            state = self._with(state, max(call.constant for call in calls))
        needed = self.samples if state["differ"] else self.same
        if state["other"] or state["seen"] < needed:
            return state, ()
        detail = f"all targets are one class in each of {state['seen']} batches: check the labels and shuffle"
        return state, (Finding(self.kind, stats.step, (), state["seen"], needed, detail),)

    def _with(self, state: State, constant: int) -> State:
        """The state after one more sample, whose targets are all of one class, or of several (-1)."""
        first = constant if state["first"] < 0 else state["first"]
        differ = state["differ"] or constant != first
        return {"seen": state["seen"] + 1, "first": first, "differ": differ, "other": constant < 0}
