"""DIAGNOSE: gradients that vanish or explode on their way back through time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.activation_stats import ActivationStats, decades_through_time
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.detectors.base import State, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.renamed import renamed_fields


@renamed_fields(looks="patience")
@dataclass(frozen=True)
class VanishingThroughTime(ActivationDetector):
    """Reports a recurrent layer whose gradient vanishes at the early time steps, while the run is stuck or regressing.

    Args:
        decades: Loss from the last quarter of the sequence to the first. On the runs of `python benchmarks/repair`
            healthy ones lost at most 1.5 over 60 steps; a closed forget gate loses everything. 5 leaves a wide margin;
            chosen, not measured.
        patience: Activation samples in a row. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> import numpy as np
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> vanishing = ActivationStats(time={"rnn": 10.0 ** np.arange(-12.0, 0.0)})
        >>> detector, stuck = VanishingThroughTime(patience=1), LossTrend(is_stuck=True)
        >>> stats = GradStats.of({"rnn": 0.1}, step=99, loss=1.4, loss_trend=stuck, activation_stats=vanishing)
        >>> print(*detector.update(detector.init(), stats)[1])
        step 99: vanishing_through_time in rnn: gradient shrinks by 9 decades back through time (limit 5)

    References:
        Hochreiter 1991; Bengio, Simard and Frasconi 1994.
    """

    kind: ClassVar[str] = "vanishing_through_time"
    page: ClassVar[str] = "through_time"
    decades: float = 5.0
    patience: int = 3
    name: str = "vanishing_through_time"

    def __post_init__(self) -> None:
        for field in ("decades", "patience"):
            value = getattr(self, field)
            require(value > 0, f"VanishingThroughTime({field}=...)", "must be positive", value)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "use an LSTM or GRU (fixes.replace_rnn) whose gate begins open (fixes.set_forget_bias)"

    def observe(self, state: State, sample: ActivationStats) -> State:
        return count_above(state, {layer: -decades_through_time(g) for layer, g in sample.time.items()}, self.decades)

    def judge(self, state: State, stats: GradStats) -> Finding | None:
        return to_finding(self.kind, state, stats, self.patience, self.decades, "gradient shrinks")


@renamed_fields(looks="patience")
@dataclass(frozen=True)
class ExplodingThroughTime(ActivationDetector):
    """Reports a recurrent layer whose gradient explodes at the early time steps, while the run is stuck or regressing.

    Args:
        decades: Growth from the last quarter of the sequence to the first. On the runs of `python benchmarks/repair`
            healthy ones reached 1.7 over 60 steps (a memory task needs its early gradients), a chaotic one 7. 4 lies
            between.
        patience: Activation samples in a row. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> import numpy as np
        >>> from lightning_gradguard.collect.loss_trend import LossTrend
        >>> growing = ActivationStats(time={"rnn": 10.0 ** np.arange(12.0, 0.0, -1)})
        >>> detector, stuck = ExplodingThroughTime(patience=1), LossTrend(is_stuck=True)
        >>> stats = GradStats.of({"rnn": 0.1}, step=99, loss=1.4, loss_trend=stuck, activation_stats=growing)
        >>> print(*detector.update(detector.init(), stats)[1])
        step 99: exploding_through_time in rnn: gradient grows by 9 decades back through time (limit 4)

    References:
        Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063.
    """

    kind: ClassVar[str] = "exploding_through_time"
    page: ClassVar[str] = "through_time"
    decades: float = 4.0
    patience: int = 3
    name: str = "exploding_through_time"

    def __post_init__(self) -> None:
        for field in ("decades", "patience"):
            value = getattr(self, field)
            require(value > 0, f"ExplodingThroughTime({field}=...)", "must be positive", value)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "clip at every step (GradGuard(clip=ZClip())), and begin with fixes.orthogonal_recurrent"

    def observe(self, state: State, sample: ActivationStats) -> State:
        return count_above(state, {layer: decades_through_time(g) for layer, g in sample.time.items()}, self.decades)

    def judge(self, state: State, stats: GradStats) -> Finding | None:
        return to_finding(self.kind, state, stats, self.patience, self.decades, "gradient grows")


def count_above(state: State, decades: dict[str, float], limit: float) -> State:
    """For each layer at or above the limit, the number of samples in a row and the latest value."""
    return {k: [state.get(k, [0, 0.0])[0] + 1, value] for k, value in decades.items() if value >= limit}


def to_finding(kind: str, state: State, stats: GradStats, patience: int, limit: float, what: str) -> Finding | None:
    """The finding on the layers that were above the limit for `patience` samples in a row; None without any."""
    above = {layer: value for layer, (count, value) in state.items() if count >= patience}
    if not above:
        return None
    layers, most = tuple(sorted(above, key=lambda k: -above[k])), max(above.values())
    detail = f"{what} by {most:.3g} decades back through time (limit {limit:.3g})"
    return Finding(kind, stats.step, layers, most, limit, detail)
