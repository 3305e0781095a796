"""DIAGNOSE: units in the flat parts of a sigmoid or tanh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.renamed import renamed_fields


@renamed_fields(looks="patience")
@dataclass(frozen=True)
class Saturated(ActivationDetector):
    """Reports a hidden layer whose activation is flat almost everywhere, while the run is stuck or regressing.

    Flat means a slope below 1 % of the activation's steepest, found by differentiating it. The activation of the output
    layer is left out, because a confident classifier saturates it.

    Args:
        share: Share of a layer's elements. A healthy first layer on unscaled inputs had 0.61 (on the runs of `python
            benchmarks/repair`).
        patience: Activation samples in a row. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import numpy as np
        >>> from lightning_gradguard.collect.activation_stats import ActivationRecord
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> from lightning_gradguard.modules.activations import Traits
        >>> flat = ActivationRecord("net.0", "tanh", 1.0, np.array([True] * 4), 32, traits=Traits(saturating=True))
        >>> detector, state = Saturated(patience=2), Saturated().init()
        >>> stuck = LossTrend(is_stuck=True)
        >>> sample = ActivationStats(layers=("net.0", "net.2"), activations=(flat,))
        >>> for step in (50, 100):
        ...     stats = GradStats.of({"net.0": 0.0}, step=step, loss=2.3, loss_trend=stuck, activation_stats=sample)
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 100: saturated in net.0: activation is flat for 100 % of its elements (limit 90 %)

    References:
        Glorot and Bengio 2010; Rakitianskaia and Engelbrecht 2015 (measuring saturation).
    """

    kind: ClassVar[str] = "saturated"
    page: ClassVar[str] = "dead_units"
    share: float = 0.9
    patience: int = 3
    name: str = "saturated"

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "Saturated(share=...)", "must be in (0, 1]", self.share)
        require(self.patience >= 1, "Saturated(patience=...)", "must be at least 1", self.patience)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "standardize the inputs (fixes.normalize_inputs), and draw smaller initial weights (fixes.glorot)"

    def observe(self, state: State, sample: ActivationStats) -> State:
        hidden = [a for a in sample.activations if a.traits.saturating and a.layer != sample.layers[-1]]
        flattest = {a.layer: max(b.flat for b in hidden if b.layer == a.layer) for a in hidden}
        return {
            layer: [state.get(layer, [0, 0.0])[0] + 1, flat] for layer, flat in flattest.items() if flat >= self.share
        }

    def judge(self, state: State, stats: GradStats) -> Finding | None:
        saturated = {layer: flat for layer, (samples, flat) in state.items() if samples >= self.patience}
        if not saturated:
            return None
        most = max(saturated.values())
        detail = f"activation is flat for {100 * most:.3g} % of its elements (limit {100 * self.share:.3g} %)"
        return Finding(self.kind, stats.step, tuple(saturated), most, self.share, detail)
