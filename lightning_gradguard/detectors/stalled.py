"""DIAGNOSE: steps are taken but nothing moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class Stalled(AbstractDetector):
    """Reports a run whose optimizer steps change nothing, and says why.

    * a GradScaler has skipped `patience` steps in a row: it overflows again and again;
    * the gradient is exactly zero for `patience` steps in a row;
    * every sampled update is exactly zero although the gradient is not: it is lost in the weights' rounding.

    Zero gradients and lost updates of a run that has arrived (its loss is below `arrived` of where it began) are fine,
    and so is a learning rate of zero.

    Args:
        patience: Steps in a row. A scaler that starts at 65536 needs 16 skips to come down to 1, so 20 is more than
            any routine search for a scale.
        arrived: Share of the first loss below which a standstill is success. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If `patience` is not positive or `arrived` outside [0, 1).

    Example:
        >>> detector = Stalled(patience=3)
        >>> state = detector.init()
        >>> for step in range(3):
        ...     state, found = detector.update(state, GradStats.of({"a": 0.0}, step=step, loss=0.69, lr=0.1))
        >>> print(*found)
        step 2: stalled: zero gradient, steps in a row (3, limit 3)
    """

    kind: ClassVar[str] = "stalled"
    patience: int = 20
    arrived: float = 0.01
    name: str = "stalled"

    def __post_init__(self) -> None:
        require(self.patience >= 1, "Stalled(patience=...)", "must be at least 1", self.patience)
        require(0 <= self.arrived < 1, "Stalled(arrived=...)", "must be in [0, 1)", self.arrived)

    def init(self) -> State:
        return {"first": None, "overflows": 0, "zeros": 0, "lost": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.scaler_overflow:
            return self._counted({**state, "overflows": state["overflows"] + 1}, stats)
        if not stats.clean:
            return state, ()
        first = abs(stats.loss) if state["first"] is None and stats.loss is not None else state["first"]
        nothing = stats.lr == 0 or not stats.layers.names
        idle = nothing or (first is not None and stats.loss is not None and abs(stats.loss) < self.arrived * first)
        zeros = 0 if idle or stats.global_norm > 0 else state["zeros"] + 1
        lost = state["lost"]
        if stats.update_ratio is not None:
            lost = lost + 1 if not idle and stats.global_norm > 0 and not stats.update_ratio.any() else 0
        return self._counted({"first": first, "overflows": 0, "zeros": zeros, "lost": lost}, stats)

    def _counted(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if max(state["overflows"], state["zeros"]) < self.patience and state["lost"] < 2:
            return state, ()
        reasons = {
            "the scaler skips every step, steps in a row": (state["overflows"], self.patience),
            "zero gradient, steps in a row": (state["zeros"], self.patience),
            "updates lost in rounding, samples in a row": (state["lost"], 2),
        }
        over = [
            Finding(self.kind, stats.step, (), count, limit, why)
            for why, (count, limit) in reasons.items()
            if count >= limit
        ]
        return state, tuple(over[:1])
