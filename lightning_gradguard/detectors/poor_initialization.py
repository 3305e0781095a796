"""DIAGNOSE: initial weights from which training cannot start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.collect.activation_stats import MIN_SPREAD, ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class PoorInitialization(ActivationDetector):
    """Reports initial weights with which the signal explodes, vanishes, or is the same for all samples.

    Only the first activation sample counts: nothing has been learned yet, so nothing is lost by re-initializing.

    * The output's RMS grows by `decades` or more from the first layer to the last, or overflows: reported immediately.
    * It shrinks by as much, or a layer's output hardly differs between samples (`spread`), or all units of a layer have
      the same output: reported once the run is stuck or regressing, because the optimizer may cope with it.

    Args:
        decades: Growth or loss of the RMS over depth. On the runs of `python benchmarks/repair` healthy ones stayed
            within 1. 4 leaves a wide margin; chosen, not measured.
        spread: Standard deviation over the batch divided by the RMS, in the hidden layers. On the same runs healthy
            ones began above 0.05 and stuck ones below 0.001; 0.005 lies between.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> growing = ActivationStats(layers=("a", "b", "c"), output_rms=np.array([1.0, 1e4, 1e8]), spread=np.ones(3),
        ...                 identical_units=np.zeros(3))
        >>> detector = PoorInitialization()
        >>> print(*detector.update(detector.init(), GradStats.of({"a": 1e9}, loss=1e16, activation_stats=growing))[1])
        step 0: poor_initialization in c, b: output RMS grows by 8 decades from the first to the last layer (limit 4)

    References:
        Glorot and Bengio 2010; He et al. 2015, arXiv 1502.01852; Schoenholz et al. 2017, arXiv 1611.01232.
    """

    kind: ClassVar[str] = "poor_initialization"
    page: ClassVar[str] = "vanishing"
    decades: float = 4.0
    spread: float = MIN_SPREAD
    name: str = "poor_initialization"

    def __post_init__(self) -> None:
        for field in ("decades", "spread"):
            value = getattr(self, field)
            require(value > 0, f"PoorInitialization({field}=...)", "must be positive", value)

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        first_sample = not state
        state, found = super().update(state, stats)
        if first_sample and state.get("explodes"):
            return state, (self._finding(state, stats),)
        return state, found

    def renew(self, state: State, improved: bool) -> State:
        return {"explodes": False, "layers": []}  # a re-initialized model is not judged again

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "draw other initial weights: fixes.he for ReLU and ELU, fixes.glorot for tanh and sigmoid"

    def observe(self, state: State, sample: ActivationStats) -> State:
        if state:
            return state
        decades, rms = sample.forward_decades, sample.output_rms
        limit = f"(limit {self.decades:.3g})"
        way = "from the first to the last layer"
        with np.errstate(divide="ignore", invalid="ignore"):
            if not decades < self.decades and np.isfinite(sample.input_std).all():
                large, detail = ~(rms < 1e2 * rms[0]), f"output RMS grows by {decades:.3g} decades {way} {limit}"
                return symptom(sample, large, decades, self.decades, detail, explodes=True)
            if -decades >= self.decades:
                small, detail = rms < 1e-2 * rms[0], f"output RMS shrinks by {-decades:.3g} decades {way} {limit}"
                return symptom(sample, small, -decades, self.decades, detail)
            constant = sample.constant_mask(self.spread)
        if constant.any():
            spread = float(np.nanmin(sample.spread[constant]))
            detail = f"output differs between samples by {spread:.3g} of its RMS (limit {self.spread:.3g})"
            return symptom(sample, constant, spread, self.spread, detail)
        hidden = np.arange(len(rms)) < max(len(rms) - 1, 1)
        # The units of a branch initialized to zero are identical too, but become different on the first step.
        identical = hidden & (sample.identical_units > 0) & (rms > 0)
        if identical.any():
            detail = "all units of a layer have the same output"
            return symptom(sample, identical, float(identical.sum()), 0.0, detail)
        return {"explodes": False, "layers": []}

    def judge(self, state: State, stats: GradStats) -> Finding | None:
        return self._finding(state, stats) if state.get("layers") else None

    def _finding(self, state: State, stats: GradStats) -> Finding:
        layers, value, limit = tuple(state["layers"]), state["value"], state["threshold"]
        return Finding(self.kind, stats.step, layers, value, limit, state["detail"])


def symptom(
    sample: ActivationStats, mask: NDArray[np.bool_], value: float, limit: float, detail: str, explodes: bool = False
) -> State:
    """A state of `PoorInitialization` with what the first sample showed; the deepest layer first."""
    layers = [sample.layers[i] for i in np.flatnonzero(mask)][::-1] or list(sample.layers[-1:])
    return {"explodes": explodes, "layers": layers, "value": value, "threshold": limit, "detail": detail}
