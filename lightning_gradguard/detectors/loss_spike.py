"""DIAGNOSE: a loss far above anything the run has shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, median, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class LossSpike(AbstractDetector):
    """Reports a loss that exceeds its moving median by more than `factor` times the largest healthy excess.

    With median m and highest healthy loss h, a loss y is a spike when `y - m > factor * (h - m)`: the rule knows
    neither unit, sign nor offset of the loss, and a loss on its way to zero is measured against where it came from.
    One step raises h - m to three times what it was at most (chosen): what a first bad step does is no excuse for the
    worse that follow.

    Several optimizers (a GAN) mean that no loss is an objective; there the guard shows this detector no loss.

    Args:
        factor: Multiple of the largest healthy excess. The largest of 210 healthy runs was 12, a rare class met for the
            first time under batches of one (`benchmarks/calibrate.py`); 50 leaves a margin of four. What stays high
            without being a spike is a relapse.
        warmup: Steps that only learn. Chosen.
        window: Steps of the moving median. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If `factor` is not above 1, or a count is not positive.

    Example:
        >>> detector = LossSpike(warmup=5)
        >>> state = detector.init()
        >>> for step, loss in enumerate([2.3, 2.0, 1.7, 1.5, 1.4, 1.3, 1.5, 400.0]):
        ...     state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=loss))
        >>> print(*found)
        step 7: loss_spike: loss (400, limit 41.5)
    """

    kind: ClassVar[str] = "loss_spike"
    factor: float = 50.0
    warmup: int = 20
    window: int = 100
    name: str = "loss_spike"

    def __post_init__(self) -> None:
        require(self.factor > 1, "LossSpike(factor=...)", "must be above 1", self.factor)
        for field in ("warmup", "window"):
            require(getattr(self, field) >= 1, f"LossSpike({field}=...)", "must be at least 1", getattr(self, field))

    def init(self) -> State:
        return {"losses": [], "seen": 0, "highest": float("-inf")}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.loss is None or not stats.clean or stats.multiple_optimizers:
            return state, ()
        if stats.loss <= state["highest"]:
            return self._learned(state, stats.loss), ()
        usual = median(state["losses"])
        limit = usual + self.factor * max(state["highest"] - usual, 0.1 * abs(usual))
        if state["seen"] >= self.warmup and stats.loss > limit:
            return state, (Finding(self.kind, stats.step, (), stats.loss, limit, "loss"),)
        return self._learned(state, stats.loss), ()

    def _learned(self, state: State, loss: float) -> State:
        seen, losses = state["seen"] + 1, [*state["losses"], loss][-self.window :]
        highest = state["highest"]
        if loss > highest:
            usual = median(state["losses"])
            most = usual + 3 * max(highest - usual, 0.1 * abs(usual)) if seen > self.warmup else loss
            highest = max(highest, min(loss, most))
        if seen == self.warmup:  # a spike during warm-up must not become the record
            usual = median(losses)
            spread = median(abs(y - usual) for y in losses)
            highest = max(y for y in losses if y - usual <= 100 * spread + abs(usual))
        return {"losses": losses, "seen": seen, "highest": highest}
