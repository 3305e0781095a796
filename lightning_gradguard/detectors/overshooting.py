"""DIAGNOSE: an update many times larger than the weights it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class Overshooting(AbstractDetector):
    """Reports a sampled update whose norm is more than `limit` times that of all the optimizer's weights.

    It needs no history, so it sees the explosion of the very first step, which leaves no healthy norm to compare with.
    The ratio is taken over all layers together: a layer that starts at zero has no ratio of its own. Where several
    optimizers play against each other no loss will tell later that harm was done: there an update as large as the
    weights is too large (`playing`).

    Args:
        limit: Largest update-to-weight ratio. Amazon SageMaker Debugger's `WeightUpdateRatio` warns above 10; a
            healthy RMSprop run on a 1-to-1 linear layer reaches 4 in its first step (`benchmarks/calibrate.py`).
        playing: The same with several optimizers. A healthy GAN under Adam has 0.02, one that never recovers from its
            critic's first step 2.7 (`benchmarks/repair`). Chosen: 1.
        name: Key of the state.

    Raises:
        ValueError: If a limit is not positive.

    Example:
        >>> layers = dict(grad_norm={"a": 1e9}, loss=0.5)
        >>> stats = GradStats.of(**layers, step=1, param_norm=np.array([2.0]), update_ratio=np.array([1e8]))
        >>> print(*Overshooting().update({}, stats)[1])
        step 1: overshooting in a: update-to-weight ratio (1e+08, limit 100)
    """

    only_on_extra_stats: ClassVar[bool] = True
    kind: ClassVar[str] = "overshooting"
    limit: float = 100.0
    playing: float = 1.0
    name: str = "overshooting"

    def __post_init__(self) -> None:
        for field in ("limit", "playing"):
            require(getattr(self, field) > 0, f"Overshooting({field}=...)", "must be positive", getattr(self, field))

    def init(self) -> State:
        return {}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        ratio, limit = stats.global_update_ratio, self.playing if stats.multiple_optimizers else self.limit
        if stats.update_ratio is None or not ratio > limit:
            return state, ()
        sick = ~(stats.update_ratio <= limit)
        layers = stats.layers.pick(sick, by=np.nan_to_num(stats.update_ratio, nan=np.inf))
        return state, (Finding(self.kind, stats.step, layers, ratio, limit, "update-to-weight ratio"),)
