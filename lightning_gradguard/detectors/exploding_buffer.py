"""DIAGNOSE: a batch that ruins BatchNorm's running statistics while loss and gradients look ordinary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, empty_record, excess, learn, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class ExplodingBuffer(AbstractDetector):
    """Reports a float buffer whose norm is more than `factor` times the highest healthy one.

    Behind a BatchNorm a batch scaled by 1e4 changes neither loss nor gradients, but its variance enters the running
    statistics, and validation is wrong for the next hundred steps.

    Args:
        factor: How far above the record a buffer may be. With momentum 0.1 a batch ten times too large multiplies the
            running variance by 11; 100 is a batch about thirty times too large. Chosen.
        warmup: Steps that only learn. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If `factor` is not above 1 or `warmup` not positive.

    Example:
        >>> detector = ExplodingBuffer(warmup=3)
        >>> state = detector.init()
        >>> for step, norm in enumerate([1.0, 1.1, 1.2, 1.1, 1e6]):
        ...     stats = GradStats.of({"a": 1.0}, step=step, buffers=("bn.running_var",), buffer_norm=np.array([norm]))
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 4: exploding_buffer in bn.running_var: buffer norm (1e+06, limit 1.2)
    """

    kind: ClassVar[str] = "exploding_buffer"
    factor: float = 100.0
    warmup: int = 20
    name: str = "exploding_buffer"

    def __post_init__(self) -> None:
        require(self.factor > 1, "ExplodingBuffer(factor=...)", "must be above 1", self.factor)
        require(self.warmup >= 1, "ExplodingBuffer(warmup=...)", "must be at least 1", self.warmup)

    def init(self) -> State:
        return empty_record()

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if not stats.buffers or not np.isfinite(stats.buffer_norm).all() or not stats.clean:
            return state, ()
        row, highest = stats.buffer_norm, state["highest"]
        if highest is None or len(highest) != len(row):
            return learn(state, row, self.warmup, self.factor), ()
        sick = (highest > 0) & (row / self.factor > highest)
        if not sick.any():
            return learn(state, row, self.warmup, self.factor), ()
        worst = int(np.argmax(np.where(sick, excess(row, highest), -np.inf)))
        names = tuple(stats.buffers[i] for i in np.flatnonzero(sick))
        value, limit = float(row[worst]), float(highest[worst])
        return state, (Finding(self.kind, stats.step, names, value, limit, "buffer norm"),)
