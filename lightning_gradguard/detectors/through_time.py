"""DIAGNOSE: gradients that fade or grow on their way back through time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.activation_stats import ActivationStats, decades_through_time
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class VanishingThroughTime(ActivationDetector):
    """Reports a recurrent layer whose gradient does not reach the early time steps, while the run gets nowhere.

    Args:
        decades: Loss from the last quarter of the sequence to the first. Healthy recurrent runs stayed above -1.5 over
            60 steps; a forget gate that is shut loses everything (`benchmarks/repair`). Chosen: 5.
        looks: Looks in a row. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> import numpy as np
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> fading = ActivationStats(time={"rnn": 10.0 ** np.arange(-12.0, 0.0)})
        >>> detector, stuck = VanishingThroughTime(looks=1), LossTrend(blocks=6, flat=True)
        >>> stats = GradStats.of({"rnn": 0.1}, step=99, loss=1.4, loss_trend=stuck, activation_stats=fading)
        >>> print(*detector.update(detector.init(), stats)[1])
        step 99: vanishing_through_time in rnn: decades lost over time (9, limit 5)

    References:
        Hochreiter 1991; Bengio, Simard and Frasconi 1994.
    """

    kind: ClassVar[str] = "vanishing_through_time"
    decades: float = 5.0
    looks: int = 3
    name: str = "vanishing_through_time"

    def __post_init__(self) -> None:
        for field in ("decades", "looks"):
            value = getattr(self, field)
            require(value > 0, f"VanishingThroughTime({field}=...)", "must be positive", value)

    def look(self, seen: State, probe: ActivationStats) -> State:
        return counted(seen, {layer: -decades_through_time(g) for layer, g in probe.time.items()}, self.decades)

    def verdict(self, seen: State, stats: GradStats) -> Finding | None:
        return spoken(self.kind, seen, stats, self.looks, self.decades, "decades lost over time")


@dataclass(frozen=True)
class ExplodingThroughTime(ActivationDetector):
    """Reports a recurrent layer whose gradient grows towards the early time steps, while the run gets nowhere.

    Args:
        decades: Growth from the last quarter of the sequence to the first. Healthy recurrent runs reached 1.7 over 60
            steps (a memory task wants its gradient early), a chaotic one 7 (`benchmarks/repair`). Chosen: 4.
        looks: Looks in a row. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> import numpy as np
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> growing = ActivationStats(time={"rnn": 10.0 ** np.arange(12.0, 0.0, -1)})
        >>> detector, stuck = ExplodingThroughTime(looks=1), LossTrend(blocks=6, flat=True)
        >>> stats = GradStats.of({"rnn": 0.1}, step=99, loss=1.4, loss_trend=stuck, activation_stats=growing)
        >>> print(*detector.update(detector.init(), stats)[1])
        step 99: exploding_through_time in rnn: decades gained over time (9, limit 4)

    References:
        Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063.
    """

    kind: ClassVar[str] = "exploding_through_time"
    decades: float = 4.0
    looks: int = 3
    name: str = "exploding_through_time"

    def __post_init__(self) -> None:
        for field in ("decades", "looks"):
            value = getattr(self, field)
            require(value > 0, f"ExplodingThroughTime({field}=...)", "must be positive", value)

    def look(self, seen: State, probe: ActivationStats) -> State:
        return counted(seen, {layer: decades_through_time(g) for layer, g in probe.time.items()}, self.decades)

    def verdict(self, seen: State, stats: GradStats) -> Finding | None:
        return spoken(self.kind, seen, stats, self.looks, self.decades, "decades gained over time")


def counted(seen: State, measured: dict[str, float], limit: float) -> State:
    """Layers over the limit, with the number of looks in a row and the last value."""
    return {k: [seen.get(k, [0, 0.0])[0] + 1, value] for k, value in measured.items() if value >= limit}


def spoken(kind: str, seen: State, stats: GradStats, looks: int, limit: float, why: str) -> Finding | None:
    """The finding about layers that were over the limit in `looks` looks in a row."""
    sick = {layer: value for layer, (count, value) in seen.items() if count >= looks}
    if not sick:
        return None
    return Finding(kind, stats.step, tuple(sorted(sick, key=lambda k: -sick[k])), max(sick.values()), limit, why)
