"""DIAGNOSE: units that never answer any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.activation_stats import ONE_SIDED, ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class DeadUnits(ActivationDetector):
    """Reports a layer most of whose units were silent at every sample of every look, while the run gets nowhere.

    A unit counts as silent where its activation's slope is zero for practical purposes. That is asked of each unit
    by itself, over many looks: a sparse layer, whose units are silent in turn, is healthy.

    Args:
        share: Part of a layer's units. Healthy runs on one-dimensional inputs have up to 0.68 (half of all ReLU
            units look away from a half-line), dead ones nearly 1 (`benchmarks/repair`).
        looks: Looks in a row in which the same units were silent. Chosen.
        rows: Samples, times positions, that they must have been shown. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from lightning_gradguard.collect.activation_stats import ActivationRecord
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> detector, silent = DeadUnits(looks=2), ActivationRecord("net.0", "relu", 1.0, np.array([True] * 4), 32)
        >>> state = detector.init()
        >>> look, stuck = ActivationStats(activations=(silent,)), LossTrend(blocks=6, flat=True)
        >>> for step in (50, 100):
        ...     stats = GradStats.of({"net.0": 0.0}, step=step, loss=2.3, loss_trend=stuck, activation_stats=look)
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 100: dead_units in net.0: share of units silent for 64 samples (1, limit 0.9)

    References:
        Lu et al. 2019, arXiv 1903.06733 (dying ReLU).
    """

    kind: ClassVar[str] = "dead_units"
    share: float = 0.9
    looks: int = 3
    rows: int = 20
    name: str = "dead_units"

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "DeadUnits(share=...)", "must be in (0, 1]", self.share)
        for field in ("looks", "rows"):
            require(getattr(self, field) >= 1, f"DeadUnits({field}=...)", "must be at least 1", getattr(self, field))

    def look(self, seen: State, probe: ActivationStats) -> State:
        after: State = {}
        for i, activation in enumerate(probe.activations):
            if activation.kind not in ONE_SIDED:
                continue
            key = f"{activation.layer}#{i}"
            known = seen.get(key)
            if known is None or len(known["looks"]) != len(activation.dead):
                known = {"looks": np.zeros(len(activation.dead)), "rows": np.zeros(len(activation.dead))}
            after[key] = {
                "looks": np.where(activation.dead, known["looks"] + 1, 0),
                "rows": np.where(activation.dead, known["rows"] + activation.rows, 0),
            }
        return after

    def verdict(self, seen: State, stats: GradStats) -> Finding | None:
        shares: dict[str, float] = {}
        for key, unit in seen.items():
            layer = key.partition("#")[0]
            silent = (unit["looks"] >= self.looks) & (unit["rows"] >= self.rows)
            shares[layer] = max(shares.get(layer, 0.0), float(silent.mean()))
        sick = sorted((layer for layer, share in shares.items() if share >= self.share), key=lambda k: -shares[k])
        if not sick:
            return None
        rows = min(int(unit["rows"].max()) for key, unit in seen.items() if key.partition("#")[0] == sick[0])
        why = f"share of units silent for {rows} samples"
        return Finding(self.kind, stats.step, tuple(sick), shares[sick[0]], self.share, why)
