"""DIAGNOSE: BatchNorm statistics ruined by a batch whose loss and gradients look ordinary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import (
    AbstractDetector,
    State,
    decades_above,
    empty_record,
    highest_so_far,
    require,
    times,
    update_record,
)
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class ExplodingBuffer(AbstractDetector):
    """Reports a float buffer whose norm is more than `factor` times its highest healthy value.

    BatchNorm hides a batch that is scaled by 1e4: neither the loss nor the gradients change. But the batch's variance
    enters the running statistics, and validation is wrong for the next hundred steps.

    Args:
        factor: Ratio to the highest healthy norm. With a momentum of 0.1, a batch ten times too large multiplies the
            running variance by 11, and one thirty times too large by about 100. Chosen, not measured.
        warmup: First steps, whose outliers do not enter the highest value. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If `factor` is not above 1 or `warmup` not positive.

    Example:
        >>> detector = ExplodingBuffer(warmup=3)
        >>> state = detector.init()
        >>> for step, norm in enumerate([1.0, 1.1, 1.2, 1.1, 6e5]):
        ...     stats = GradStats.of({"a": 1.0}, step=step, buffers=("bn.running_var",), buffer_norm=np.array([norm]))
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 4: exploding_buffer in bn.running_var: buffer norm is 6e+05, 500,000 times the highest before (limit 1.2)
    """

    kind: ClassVar[str] = "exploding_buffer"
    page: ClassVar[str] = "exploding"
    factor: float = 100.0
    warmup: int = 20
    name: str = "exploding_buffer"

    def __post_init__(self) -> None:
        require(self.factor > 1, "ExplodingBuffer(factor=...)", "must be above 1", self.factor)
        require(self.warmup >= 1, "ExplodingBuffer(warmup=...)", "must be at least 1", self.warmup)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return f"look at the batch of step {finding.step}, whose values are far larger than usual"

    def init(self) -> State:
        return empty_record()

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        row = stats.buffer_norm
        if not stats.buffers or not stats.clean:
            return state, ()
        highest = highest_so_far(state, len(row))
        if state["highest"] is not None and len(state["highest"]) == len(row) and (row <= highest).all():
            return state, ()
        if not np.isfinite(row).all():
            return state, ()
        exceeds = (highest > 0) & (row / self.factor > highest)
        if not exceeds.any():
            return update_record(state, row, self.warmup, self.factor), ()
        worst = int(np.argmax(np.where(exceeds, decades_above(row, highest), -np.inf)))
        names = tuple(stats.buffers[i] for i in np.flatnonzero(exceeds))
        norm, limit = float(row[worst]), float(highest[worst])
        detail = f"buffer norm is {norm:.3g}, {times(norm, limit)} times the highest before (limit {limit:.3g})"
        return state, (Finding(self.kind, stats.step, names, norm, limit, detail),)
