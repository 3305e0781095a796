"""DIAGNOSE: a gradient of the first steps that later ones show to have been far too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, lower_lr, median, require, times
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class EarlyOutlier(AbstractDetector):
    """Reports a gradient norm of the first `warmup` steps that is more than `factor` times their median.

    At the very first step nothing tells that a gradient is too large. But its trace lasts: Adam divides by the root of
    its square for a thousand steps, and with plain SGD the weights are far away. So after a few more steps the run
    should begin again. A step that was cancelled, or that stood out at once (`Exploding`), does not count.

    Args:
        factor: Ratio to the median. The largest of 71 healthy runs was 150 (`python benchmarks/calibrate.py`).
        warmup: Steps that are compared. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If `factor` is not above 1, or `warmup` is less than 3.

    Example:
        >>> detector = EarlyOutlier()
        >>> state = detector.init()
        >>> for step in range(10):
        ...     stats = GradStats.of({"a": 1.0 if step else 9e4}, step=step, loss=1.0)
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 9: early_outlier: gradient norm was 9e+04 at step 0, 90,000 times the median of the first 10 (limit 1e+03)
    """

    kind: ClassVar[str] = "early_outlier"
    page: ClassVar[str] = "exploding"
    ignore_cancelled: ClassVar[bool] = True
    factor: float = 1e3
    warmup: int = 10
    name: str = "early_outlier"

    def __post_init__(self) -> None:
        require(self.factor > 1, "EarlyOutlier(factor=...)", "must be above 1", self.factor)
        require(self.warmup >= 3, "EarlyOutlier(warmup=...)", "must be at least 3", self.warmup)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return f"warm the learning rate up (torch.optim.lr_scheduler.LinearLR), or {lower_lr(stats)}"

    def init(self) -> State:
        return {"norms": []}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if len(state["norms"]) >= self.warmup or not stats.clean or stats.global_norm == 0.0:
            return state, ()
        if stats.restored:
            state = self.init()
        if state["norms"] and stats.global_norm / self.factor > max(norm for _, norm in state["norms"]):
            return state, ()
        norms = [*state["norms"], [stats.step, stats.global_norm]]
        if len(norms) < self.warmup:
            return {"norms": norms}, ()
        step, highest = max(norms, key=lambda row: row[1])
        usual, limit = median(norm for _, norm in norms), self.factor
        if highest / limit <= usual or step == stats.step:
            return {"norms": norms}, ()
        above = f"{times(highest, usual)} times the median of the first {self.warmup} (limit {limit:.3g})"
        detail = f"gradient norm was {highest:.3g} at step {step}, {above}"
        return self.init(), (Finding(self.kind, stats.step, (), highest, limit * usual, detail),)
