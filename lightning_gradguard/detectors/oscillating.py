"""DIAGNOSE: a loss that swings up and down instead of decreasing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, lower_lr, median, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class Oscillating(AbstractDetector):
    """Reports a smoothed loss that repeatedly swings by a large part of all progress so far.

    The last `window` losses are smoothed by medians over blocks of five. A swing is a passage from the lowest to the
    highest quarter of their range, or back. The run oscillates when there are at least `swings` and the range is

    * more than `share` of the progress (median of the first losses minus the lowest smoothed loss) and of the loss;
    * more than three times the mean range inside a block, because small batches and rare hard ones are noise.

    Args:
        window: Steps that are judged. Chosen, not measured.
        swings: Number of swings in the window. Chosen, not measured.
        share: Share of the progress, and of the loss, that the range must exceed. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> detector = Oscillating()
        >>> state = detector.init()
        >>> for step in range(200):
        ...     loss = 2.0 if step < 20 else 1.0 + (step // 10 % 2)
        ...     state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=loss))
        >>> print(*found)
        step 199: oscillating: loss swung 9 times within 100 steps (limit 5)
    """

    kind: ClassVar[str] = "oscillating"
    page: ClassVar[str] = "learning_rate"
    window: int = 100
    swings: int = 5
    share: float = 0.5
    name: str = "oscillating"

    def __post_init__(self) -> None:
        require(self.window >= 20, "Oscillating(window=...)", "must be at least 20", self.window)
        require(self.swings >= 2, "Oscillating(swings=...)", "must be at least 2", self.swings)
        require(self.share > 0, "Oscillating(share=...)", "must be positive", self.share)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return f"{lower_lr(stats, 0.3)}, or use a larger batch (Trainer(accumulate_grad_batches=4))"

    def init(self) -> State:
        return {"first": [], "block": [], "smooth": [], "ranges": [], "lowest": float("inf"), "count": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.loss is None or not stats.clean or stats.multiple_optimizers:
            return state, ()
        first = [*state["first"], stats.loss] if len(state["first"]) < 20 else state["first"]
        block, smooth, ranges = [*state["block"], stats.loss], state["smooth"], state["ranges"]
        count, lowest = state["count"], state["lowest"]
        if len(block) == 5:
            blocks, middle = self.window // 5, median(block)
            smooth = [*smooth, middle][-blocks:]
            ranges = [*ranges, max(block) - min(block)][-blocks:]
            block, lowest = [], min(lowest, middle)
            count = self._count_swings(smooth, 3 * sum(ranges) / len(ranges), median(first) - lowest)
        state = {
            "first": first, "block": block, "smooth": smooth, "ranges": ranges, "lowest": lowest, "count": count,
        }  # fmt: skip
        if count < self.swings:
            return state, ()
        detail = f"loss swung {count} times within {self.window} steps (limit {self.swings})"
        return state, (Finding(self.kind, stats.step, (), count, self.swings, detail),)

    def _count_swings(self, smooth: list[float], noise: float, progress: float) -> int:
        """Passages between the outer quarters of the range; 0 when the range is too small to matter."""
        bottom, top = min(smooth), max(smooth)
        span = top - bottom
        if len(smooth) < self.window // 5 or span <= max(noise, self.share * max(progress, abs(median(smooth)))):
            return 0
        marks = [loss > top - span / 4 for loss in smooth if not bottom + span / 4 <= loss <= top - span / 4]
        return sum(here != before for before, here in pairwise(marks))
