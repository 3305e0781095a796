"""DIAGNOSE: a loss that stays high after most of the progress was lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, lower_lr, median, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class LossIncrease(AbstractDetector):
    """Reports losses that stay above all recent ones and have lost more than `share` of the progress.

    Each of the last `sustained` losses is above all of the `window` healthy ones before them, and their median is more
    than `share` of the way back from the usual loss to the first one. The first condition alone has a chance of about
    1 in 10^15 for losses in random order; the second makes the increase relevant. A learning rate that is too high
    has this effect: no single loss is a spike, but the run is back at its start.

    A run that already recovers is not reported: neither the later half of the high losses may be lower than the earlier
    one, nor the last quarter lower than the one before it, which shows that a rise has ended. New data (another task,
    another domain) raise the loss too, but the run learns them.

    When the loss is as high right after a rollback has restored the weights, the data have changed and not the weights.
    The new level is then accepted.

    Args:
        sustained: Losses in a row. A healthy LSTM (case `shut_forget_gate` with its cure and seed 3 in `python
            benchmarks/repair`) lost 70 % of its progress for 12 steps at a cliff and recovered without help.
        share: Share of the way back to the first loss. The same LSTM stayed at 50 % for 36 steps.
        window: Healthy losses compared with; half as many are needed to begin. Chosen, not measured.
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
        step 152: loss_increase: median loss of the last 3 steps is 1.9, up from 0.5 (limit 1.55)
    """

    only_about_loss: ClassVar[bool] = True
    kind: ClassVar[str] = "loss_increase"
    page: ClassVar[str] = "learning_rate"
    sustained: int = 20
    share: float = 0.7
    window: int = 100
    name: str = "loss_increase"

    def __post_init__(self) -> None:
        for field in ("sustained", "share", "window"):
            require(getattr(self, field) > 0, f"LossIncrease({field}=...)", "must be positive", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return f"{lower_lr(stats, 0.3)}, or let a schedule lower it during the run"

    def init(self) -> State:
        return {"first": [], "losses": [], "high": [], "hold_snapshots": False}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.loss is None or not stats.clean or stats.multiple_optimizers:
            return state, ()
        first, losses, high = state["first"], state["losses"], state["high"]
        if len(losses) < self.window // 2 or stats.loss <= max(losses):
            first = [*first, stats.loss] if len(first) < 20 else first
            losses = [*losses, *high, stats.loss][-self.window :]
            return {"first": first, "losses": losses, "high": [], "hold_snapshots": False}, ()
        usual = median(losses)
        limit = usual + self.share * (median(first) - usual)
        if stats.restored and limit > usual and stats.loss > limit:
            return self.init(), ()
        high = [*high, stats.loss][-self.sustained :]
        state = {**state, "high": high, "hold_snapshots": len(high) < self.sustained}
        level = median(high)
        if len(high) < self.sustained or not level > limit > usual or recovers(high):
            return state, ()
        last = f"median loss of the last {self.sustained} steps"
        detail = f"{last} is {level:.3g}, up from {usual:.3g} (limit {limit:.3g})"
        return state, (Finding(self.kind, stats.step, (), level, limit, detail),)


def recovers(high: list[float]) -> bool:
    """Whether the later losses are lower than the earlier ones: of all, or of their later half."""
    half, quarter = len(high) // 2, len(high) // 4
    later, before, last = high[half:], high[half : half + quarter], high[-quarter or None :]
    return median(later) < median(high[:half]) or (quarter > 0 and median(last) < median(before))
