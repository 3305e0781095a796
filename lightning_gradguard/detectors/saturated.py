"""DIAGNOSE: units driven into the flat ends of a sigmoid or tanh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class Saturated(ActivationDetector):
    """Reports a hidden layer whose activation is flat nearly everywhere, while the run gets nowhere.

    Flat means a slope below 1 % of the activation's steepest, found by differentiating it. The output's own sigmoid
    is left out: a classifier that is sure of itself saturates it rightly.

    Args:
        share: Part of a layer's elements. A healthy first layer on unscaled inputs had 0.61 (`benchmarks/repair`).
        looks: Looks in a row. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import numpy as np
        >>> from lightning_gradguard.collect.activation_stats import ActivationRecord
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> flat = ActivationRecord("net.0", "tanh", 1.0, np.array([True] * 4), 32)
        >>> detector, state = Saturated(looks=2), Saturated().init()
        >>> stuck = LossTrend(blocks=6, flat=True)
        >>> look = ActivationStats(layers=("net.0", "net.2"), activations=(flat,))
        >>> for step in (50, 100):
        ...     stats = GradStats.of({"net.0": 0.0}, step=step, loss=2.3, loss_trend=stuck, activation_stats=look)
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 100: saturated in net.0: share of flat slopes (1, limit 0.9)

    References:
        Glorot and Bengio 2010; Rakitianskaia and Engelbrecht 2015 (measuring saturation).
    """

    kind: ClassVar[str] = "saturated"
    share: float = 0.9
    looks: int = 3
    name: str = "saturated"

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "Saturated(share=...)", "must be in (0, 1]", self.share)
        require(self.looks >= 1, "Saturated(looks=...)", "must be at least 1", self.looks)

    def look(self, seen: State, probe: ActivationStats) -> State:
        hidden = [a for a in probe.activations if a.saturating and a.layer != probe.layers[-1]]
        flattest = {a.layer: max(b.flat for b in hidden if b.layer == a.layer) for a in hidden}
        return {
            layer: [seen.get(layer, [0, 0.0])[0] + 1, flat] for layer, flat in flattest.items() if flat >= self.share
        }

    def verdict(self, seen: State, stats: GradStats) -> Finding | None:
        sick = {layer: flat for layer, (looks, flat) in seen.items() if looks >= self.looks}
        if not sick:
            return None
        return Finding(self.kind, stats.step, tuple(sick), max(sick.values()), self.share, "share of flat slopes")
