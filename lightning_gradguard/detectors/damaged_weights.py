"""DIAGNOSE: weights that have become bad between two steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, lower_lr, median, require
from lightning_gradguard.findings import Finding

#: Share of the first loss that is no spread: a model that has learned all its samples has a loss of exactly 0. Chosen.
NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class DamagedWeights(AbstractDetector):
    """Reports weights whose loss on a batch is far above the loss of the same batch one step before.

    When a step goes wrong, either its batch is bad or the weights are. The last healthy batch tells: its loss is
    measured again, with the present weights. Where that is possible, weights that were damaged by one update, a bit
    flip or another program need not be suspected for several steps before they are rolled back, and batches that are
    bad cost no rollback.

    The batch is measured again when loss or gradients are not finite, or when the loss is far above the last ones.

    Args:
        factor: Multiple of the usual spread of the losses, the highest of the last ones minus their median, by which
            the loss of the same batch may rise. Chosen, not measured.
        suspicious: The same multiple for the loss of a step, above which the last healthy batch is measured again.
            Chosen, not measured: a second forward pass changes nothing.
        window: Losses that tell what is usual. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> detector = DamagedWeights()
        >>> state = detector.init()
        >>> for step in range(10):
        ...     state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=0.5 + 0.4 * (step % 2)))
        >>> stats = GradStats.of({"a": 1.0}, step=10, loss=90.0)
        >>> detector.wants_recheck(state, stats)
        True
        >>> from dataclasses import replace
        >>> print(*detector.update(state, replace(stats, recheck=(0.7, 80.0)))[1])
        step 10: damaged_weights: loss of the last healthy batch is 80, it was 0.7 one step before (limit 2.7)
    """

    kind: ClassVar[str] = "damaged_weights"
    page: ClassVar[str] = "exploding"
    asks_for_recheck: ClassVar[bool] = True
    factor: float = 10.0
    suspicious: float = 5.0
    window: int = 20
    name: str = "damaged_weights"

    def __post_init__(self) -> None:
        for field in ("factor", "suspicious", "window"):
            require(getattr(self, field) > 0, f"DamagedWeights({field}=...)", "must be positive", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return f"go back to a checkpoint from before step {finding.step}; if it comes again, {lower_lr(stats)}"

    def init(self) -> State:
        return {"losses": [], "first": 0.0}

    def wants_recheck(self, state: State, stats: GradStats) -> bool:
        if stats.scaler_overflow or stats.multiple_optimizers or len(state["losses"]) < 3:
            return False
        if not stats.clean or stats.loss is None:
            return not stats.clean
        if stats.loss <= max(state["losses"]):
            return False
        return stats.loss - median(state["losses"]) > self.suspicious * self._spread(state)

    def _spread(self, state: State) -> float:
        usual: float = median(state["losses"])
        return float(max(max(state["losses"]) - usual, 0.1 * abs(usual), NEGLIGIBLE * abs(state["first"])))

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.recheck is not None and state["losses"]:
            before, now = stats.recheck
            limit = before + self.factor * self._spread(state)
            if not now <= limit:
                detail = f"loss of the last healthy batch is {now:.3g}, it was {before:.3g} one step before"
                return state, (Finding(self.kind, stats.step, (), now, limit, f"{detail} (limit {limit:.3g})"),)
        if not stats.clean or stats.loss is None or stats.multiple_optimizers or self.wants_recheck(state, stats):
            return state, ()
        first = state["first"] if state["losses"] else stats.loss
        return {"losses": [*state["losses"][1 - self.window :], stats.loss], "first": first}, ()

    def confirms_weights(self, state: State, stats: GradStats) -> bool:
        if stats.recheck is None or not state["losses"]:
            return False
        before, now = stats.recheck
        ordinary = before - median(state["losses"]) <= self.suspicious * self._spread(state)
        return ordinary and now <= before + self._spread(state)
