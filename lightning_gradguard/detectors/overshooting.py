"""DIAGNOSE: an update many times larger than the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, lower_lr, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.renamed import renamed_fields

#: Update-to-weight ratio that is advised: a healthy GAN under Adam begins with it (`python benchmarks/repair`).
ADVISED = 0.01


@renamed_fields(playing="multi_optimizer_limit")
@dataclass(frozen=True)
class Overshooting(AbstractDetector):
    """Reports a sampled update whose norm is more than `limit` times the norm of the weights.

    It compares with no earlier step, so it also detects an explosion in the very first one. The ratio is taken over all
    weight matrices of the optimizer together: one that is initialized to zero has no ratio of its own, and a scalar
    such as the temperature of SAC may well double in one step. With several optimizers (a GAN) no loss shows later that
    an update did harm, so the limit is lower there.

    Args:
        limit: Largest update-to-weight ratio. Amazon SageMaker Debugger's `WeightUpdateRatio` warns above 10; a healthy
            RMSprop run on a 1-to-1 linear layer reaches 4 on its first step (`python benchmarks/calibrate.py`).
        multi_optimizer_limit: The same with several optimizers. On the runs of `python benchmarks/repair` a
            healthy GAN under Adam had 0.02, one that never recovered from its critic's first step 2.7; 1 lies between.
        name: Key of the state.

    Raises:
        ValueError: If a limit is not positive.

    Example:
        >>> layers = dict(grad_norm={"a": 1e9}, loss=0.5)
        >>> stats = GradStats.of(**layers, step=1, param_norm=np.array([2.0]), update_ratio=np.array([1e8]))
        >>> print(*Overshooting().update({}, stats)[1])
        step 1: overshooting in a: update norm is 1e+08 times the weight norm (limit 100)
    """

    only_on_extra_stats: ClassVar[bool] = True
    kind: ClassVar[str] = "overshooting"
    page: ClassVar[str] = "learning_rate"
    limit: float = 100.0
    multi_optimizer_limit: float = 1.0
    name: str = "overshooting"

    def __post_init__(self) -> None:
        for field in ("limit", "multi_optimizer_limit"):
            require(getattr(self, field) > 0, f"Overshooting({field}=...)", "must be positive", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return lower_lr(stats, ADVISED / finding.value)

    def init(self) -> State:
        return {}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        limit = self.multi_optimizer_limit if stats.multiple_optimizers else self.limit
        if stats.update_ratio is None or not stats.global_update_ratio > limit:
            return state, ()
        ratio, too_large = stats.global_update_ratio, ~(stats.update_ratio <= limit)
        layers = stats.layers.pick(too_large, by=np.nan_to_num(stats.update_ratio, nan=np.inf))
        detail = f"update norm is {ratio:.3g} times the weight norm (limit {limit:.3g})"
        return state, (Finding(self.kind, stats.step, layers, ratio, limit, detail),)
