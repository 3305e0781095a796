"""DIAGNOSE: a single loss far above all earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, advise_on_samples, median, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class LossSpike(AbstractDetector):
    """Reports a loss that exceeds its moving median by more than `factor` times the largest healthy excess.

    With the median m and the highest healthy loss h, a loss y is a spike when `y - m > factor * (h - m)`. The rule does
    not depend on the unit, the sign or the offset of the loss. A loss that approaches zero is compared with the values
    it came from.

    One step can at most triple h - m (chosen, not measured), so that a first high loss does not hide higher ones.

    With several optimizers (a GAN) no loss is minimized by all, and nothing is reported.

    Args:
        factor: Multiple of the largest healthy excess. The largest of 210 healthy runs was 12, when a rare class came
            up for the first time at a batch size of one (`python benchmarks/calibrate.py`); 50 leaves a margin of four.
            A loss that stays high without being a spike is a `LossIncrease`.
        warmup: First steps, which only collect losses. Chosen, not measured.
        window: Steps of the moving median. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If `factor` is not above 1, or a count is not positive.

    Example:
        >>> detector = LossSpike(warmup=5)
        >>> state = detector.init()
        >>> for step, loss in enumerate([2.3, 2.0, 1.7, 1.5, 1.4, 1.3, 1.5, 400.0]):
        ...     state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=loss))
        >>> print(*found)
        step 7: loss_spike: loss is 400, its median was 1.5 (limit 41.5)
    """

    kind: ClassVar[str] = "loss_spike"
    page: ClassVar[str] = "exploding"
    factor: float = 50.0
    warmup: int = 20
    window: int = 100
    name: str = "loss_spike"

    def __post_init__(self) -> None:
        require(self.factor > 1, "LossSpike(factor=...)", "must be above 1", self.factor)
        for field in ("warmup", "window"):
            require(getattr(self, field) >= 1, f"LossSpike({field}=...)", "must be at least 1", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        clip = "clip at every step (GradGuard(clip=ZClip()))"
        return advise_on_samples(stats) or f"look at the batch of step {finding.step}, and {clip}"

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
            detail = f"loss is {stats.loss:.3g}, its median was {usual:.3g} (limit {limit:.3g})"
            return state, (Finding(self.kind, stats.step, (), stats.loss, limit, detail),)
        return self._learned(state, stats.loss), ()

    def _learned(self, state: State, loss: float) -> State:
        """The state after a healthy step."""
        seen, losses = state["seen"] + 1, [*state["losses"], loss][-self.window :]
        highest = state["highest"]
        if seen == self.warmup:  # leaves out spikes of the warmup
            usual = median(losses)
            spread = median(abs(y - usual) for y in losses)
            highest = max(y for y in losses if y - usual <= 100 * spread + abs(usual))
        elif seen > self.warmup and loss > highest:
            usual = median(state["losses"])
            highest = max(highest, min(loss, usual + 3 * max(highest - usual, 0.1 * abs(usual))))
        return {"losses": losses, "seen": seen, "highest": highest}
