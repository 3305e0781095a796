"""DIAGNOSE: NaN or Inf in weights or optimizer state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class NonFiniteState(AbstractDetector):
    """Reports weights or optimizer state that contain NaN or Inf.

    No batch can do well with such weights, so skipping steps is of no use: a rollback is. Weights and optimizer state
    are read when the loss or a gradient is not finite, and before every snapshot: NaN in the momentum of an optimizer
    that takes its sign stops the weights without any other symptom.

    Args:
        name: Key of the state.

    Example:
        >>> detector = NonFiniteState()
        >>> healthy = GradStats.of({"net.0": 1.0}, loss=0.5)
        >>> detector.update(detector.init(), healthy)[1]
        ()
        >>> broken = GradStats.of({"net.0": float("nan")}, step=3, loss=float("nan"), nonfinite_state=("net.0",))
        >>> print(*detector.update(detector.init(), broken)[1])
        step 3: nonfinite_state in net.0: weights or optimizer state are not finite
    """

    only_on_extra_stats: ClassVar[bool] = True
    kind: ClassVar[str] = "nonfinite_state"
    page: ClassVar[str] = "nonfinite"
    name: str = "nonfinite_state"

    def advise(self, finding: Finding, stats: GradStats) -> str:
        back = f"where they were not rolled back, resume from a checkpoint from before step {finding.step}"
        return f"find the step that was not finite before, or what else writes into the weights; {back}"

    def init(self) -> State:
        return {}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        return state, (self.finding(stats.step, stats.nonfinite_state),) if stats.nonfinite_state else ()

    @classmethod
    def finding(cls, step: int, layers: tuple[str, ...]) -> Finding:
        """What is reported about these layers."""
        return Finding(cls.kind, step, layers, detail="weights or optimizer state are not finite")
