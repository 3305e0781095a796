"""DIAGNOSE: a run that has lost what it had learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, median, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class LossIncrease(AbstractDetector):
    """Reports losses that stay above everything recent and undo more than `share` of the progress.

    Each of the last `sustained` losses is above all of the `window` healthy ones before them, and their median is more
    than `share` of the way back from the usual loss to the first one. For losses in random order the first half alone
    has a chance of about 1 in 10^15; the second makes it matter. It is what a learning rate does that is too high
    without being absurd: no single loss is a spike, but the run is back where it began.

    A run that is already on its way back is left alone: the later half of the high losses must not be lower than the
    earlier half. Data that change (another task, another domain) raise the loss too, but the run learns them.

    When the loss is as high on weights that a rollback has just put back, the data has changed and not the weights:
    the new level is accepted.

    Args:
        sustained: Losses in a row. A healthy LSTM (`shut_forget_gate` cured, seed 3, in `benchmarks/repair`) met a
            cliff, stayed 70 % back for 12 steps and came down again by itself.
        share: Of the way back to the first loss. The same net stayed half the way back for 36 steps.
        window: Healthy losses compared with; half as many are needed to begin. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> detector = LossIncrease(sustained=3)
        >>> state = detector.init()
        >>> for step in range(153):
        ...     loss = 2.0 if step < 20 else 0.5 if step < 150 else 1.9
        ...     state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=loss))
        >>> print(*found)
        step 152: loss_increase: loss, 3 steps in a row (1.9, limit 1.55)
    """

    kind: ClassVar[str] = "loss_increase"
    sustained: int = 20
    share: float = 0.7
    window: int = 100
    name: str = "loss_increase"

    def __post_init__(self) -> None:
        for field in ("sustained", "share", "window"):
            require(getattr(self, field) > 0, f"LossIncrease({field}=...)", "must be positive", getattr(self, field))

    def init(self) -> State:
        return {"first": [], "losses": [], "high": [], "worse": False}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.loss is None or not stats.clean or stats.multiple_optimizers:
            return state, ()
        first, losses, high = state["first"], state["losses"], state["high"]
        if len(losses) < self.window // 2 or stats.loss <= max(losses):
            first = [*first, stats.loss] if len(first) < 20 else first
            losses = [*losses, *high, stats.loss][-self.window :]
            return {"first": first, "losses": losses, "high": [], "worse": False}, ()
        usual = median(losses)
        limit = usual + self.share * (median(first) - usual)
        if stats.restored and limit > usual and stats.loss > limit:
            return self.init(), ()
        high = [*high, stats.loss][-self.sustained :]
        state = {**state, "high": high, "worse": len(high) < self.sustained}
        half = len(high) // 2
        if len(high) < self.sustained or not median(high) > limit > usual or median(high[half:]) < median(high[:half]):
            return state, ()
        detail = f"loss, {self.sustained} steps in a row"
        return state, (Finding(self.kind, stats.step, (), median(high), limit, detail),)
