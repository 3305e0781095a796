"""DIAGNOSE: weights with which training could not begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class PoorInitialization(ActivationDetector):
    """Reports initial weights that blow the signal up, let it fade, or give every sample the same answer.

    Looked at before the first step, when nothing has been learnt and nothing can be lost by drawing again:

    * the output's RMS grows by `decades` or more from the first layer to the last, or overflows: reported at once;
    * it shrinks by as much; or a layer's outputs hardly differ between samples (`spread`); or all its units give the
      same answer: reported when the run has then got nowhere, since depth, optimizer and task may carry it.

    Args:
        decades: Growth or loss of the RMS over depth. Healthy runs stayed within 1 (`benchmarks/repair`). Chosen: 4.
        spread: Deviation over the batch relative to the RMS, in the hidden layers. Healthy runs began above 0.05,
            stuck ones below 0.001 (`benchmarks/repair`); 0.005 lies between.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> growing = ActivationStats(layers=("a", "b", "c"), output_rms=np.array([1.0, 1e4, 1e8]), spread=np.ones(3),
        ...                 identical_units=np.zeros(3))
        >>> detector = PoorInitialization()
        >>> print(*detector.update(detector.init(), GradStats.of({"a": 1e9}, loss=1e16, activation_stats=growing))[1])
        step 0: poor_initialization in c, b: decades of output RMS over depth (8, limit 4)

    References:
        Glorot and Bengio 2010; He et al. 2015, arXiv 1502.01852; Schoenholz et al. 2017, arXiv 1611.01232.
    """

    kind: ClassVar[str] = "poor_initialization"
    decades: float = 4.0
    spread: float = 0.005
    name: str = "poor_initialization"

    def __post_init__(self) -> None:
        for field in ("decades", "spread"):
            value = getattr(self, field)
            require(value > 0, f"PoorInitialization({field}=...)", "must be positive", value)

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        begun = bool(state["seen"])
        state, found = super().update(state, stats)
        if not begun and state["seen"].get("grows"):
            return state, (self._finding(state["seen"], stats),)
        return state, found

    def renew(self, state: State, improved: bool) -> State:
        return {**state, "seen": {"grows": False, "layers": []}}

    def look(self, seen: State, probe: ActivationStats) -> State:
        if seen:
            return seen
        decades, rms = probe.forward_decades, probe.output_rms
        hidden = np.arange(len(rms)) < max(len(rms) - 1, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            if not decades < self.decades and np.isfinite(probe.input_std).all():
                sick = ~(rms < 1e2 * rms[0])
                return found(probe, sick, decades, self.decades, "decades of output RMS over depth", grows=True)
            if -decades >= self.decades:
                return found(
                    probe, rms < 1e-2 * rms[0], -decades, self.decades, "decades of output RMS lost over depth"
                )
            same = probe.constant_mask(self.spread)
        if same.any():
            return found(probe, same, float(np.nanmin(probe.spread[same])), self.spread, "difference between samples")
        twins = (
            hidden & (probe.identical_units > 0) & (rms > 0)
        )  # a branch that begins at zero is none: its units part at once
        if twins.any():
            return found(probe, twins, float(twins.sum()), 0.0, "layers of identical units")
        return {"grows": False, "layers": []}

    def verdict(self, seen: State, stats: GradStats) -> Finding | None:
        return self._finding(seen, stats) if seen.get("layers") else None

    def _finding(self, seen: State, stats: GradStats) -> Finding:
        return Finding(self.kind, stats.step, tuple(seen["layers"]), seen["value"], seen["limit"], seen["why"])


def found(probe: ActivationStats, sick: np.ndarray, value: float, limit: float, why: str, grows: bool = False) -> State:
    """What a look at the initial weights has shown, as a plain state; the deepest layer first."""
    layers = [probe.layers[i] for i in np.flatnonzero(sick)][::-1] or list(probe.layers[-1:])
    return {"grows": grows, "layers": layers, "value": value, "limit": limit, "why": why}
