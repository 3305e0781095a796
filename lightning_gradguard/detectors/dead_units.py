"""DIAGNOSE: units that are inactive for every input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.renamed import renamed_fields


@renamed_fields(looks="patience")
@dataclass(frozen=True)
class DeadUnits(ActivationDetector):
    """Reports a layer most of whose units are always inactive, while the run is stuck or regressing.

    A unit is inactive where the slope of its activation is practically zero. Each unit is followed over several
    activation samples: in a healthy sparse layer different units are inactive each time.

    Args:
        share: Share of a layer's units. On the runs of `python benchmarks/repair` healthy layers with one-dimensional
            inputs reached 0.68 (half of all ReLU units are zero on a half-line), dead ones nearly 1.
        patience: Activation samples in a row in which the same units were inactive. Chosen, not measured.
        rows: Samples times positions on which they were inactive. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from lightning_gradguard.collect.activation_stats import ActivationRecord
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> from lightning_gradguard.modules.activations import Traits
        >>> detector, units, relu = DeadUnits(patience=2), np.array([True] * 4), Traits(one_sided=True)
        >>> dead = ActivationRecord("net.0", "relu", 1.0, units, 32, traits=relu)
        >>> state = detector.init()
        >>> sample, stuck = ActivationStats(activations=(dead,)), LossTrend(is_stuck=True)
        >>> for step in (50, 100):
        ...     stats = GradStats.of({"net.0": 0.0}, step=step, loss=2.3, loss_trend=stuck, activation_stats=sample)
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 100: dead_units in net.0: 100 % of the units were inactive for 64 samples (limit 90 %)

    References:
        Lu et al. 2019, arXiv 1903.06733 (dying ReLU).
    """

    kind: ClassVar[str] = "dead_units"
    page: ClassVar[str] = "dead_units"
    share: float = 0.9
    patience: int = 3
    rows: int = 20
    name: str = "dead_units"

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "DeadUnits(share=...)", "must be in (0, 1]", self.share)
        for field in ("patience", "rows"):
            require(getattr(self, field) >= 1, f"DeadUnits({field}=...)", "must be at least 1", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "use LeakyReLU or ELU (fixes.replace_activations), He's weights (fixes.he), or a smaller learning rate"

    def observe(self, state: State, sample: ActivationStats) -> State:
        after: State = {}
        for i, activation in enumerate(sample.activations):
            if not activation.traits.one_sided:
                continue
            key = f"{activation.layer}#{i}"
            before = state.get(key)
            if before is None or len(before["samples"]) != len(activation.dead):
                before = {"samples": np.zeros(len(activation.dead)), "rows": np.zeros(len(activation.dead))}
            after[key] = {
                "samples": np.where(activation.dead, before["samples"] + 1, 0),
                "rows": np.where(activation.dead, before["rows"] + activation.rows, 0),
            }
        return after

    def judge(self, state: State, stats: GradStats) -> Finding | None:
        shares: dict[str, float] = {}
        for key, units in state.items():
            layer = key.partition("#")[0]
            dead = (units["samples"] >= self.patience) & (units["rows"] >= self.rows)
            shares[layer] = max(shares.get(layer, 0.0), float(dead.mean()))
        layers = sorted((layer for layer, share in shares.items() if share >= self.share), key=lambda k: -shares[k])
        if not layers:
            return None
        worst = shares[layers[0]]
        rows = min(int(units["rows"].max()) for key, units in state.items() if key.partition("#")[0] == layers[0])
        limit = f"limit {100 * self.share:.3g} %"
        detail = f"{100 * worst:.3g} % of the units were inactive for {rows:,} samples ({limit})"
        return Finding(self.kind, stats.step, tuple(layers), worst, self.share, detail)
