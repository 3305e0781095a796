"""DIAGNOSE: weights that have become bad between two steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, lower_lr, median, require
from lightning_gradguard.findings import Finding

#: Share of the first loss that is no spread: a model that has learned all its samples has a loss of exactly 0. Chosen.
NEGLIGIBLE = 1e-4
#: After an abrupt rise of the loss the last batches are measured with the newest snapshot every so many steps, until so
#: many steps. Chosen.
EVERY, UNTIL = 8, 64
#: Standard errors by which a snapshot must do better: four losses tell little. Of 52 healthy runs with abrupt rises the
#: most that a snapshot was ahead by more than the usual spread is 3.5, of damaged ones it is 6.6 to 29. Chosen.
SURELY = 6.0


@dataclass(frozen=True)
class DamagedWeights(AbstractDetector):
    """Reports weights whose loss on the same batches is far above what it was one step before, or in a snapshot.

    When a step goes wrong, either its batch is bad or the weights are. The last healthy batch tells: its loss is
    measured again, with the present weights. Where that is possible, weights that were damaged by one update, a bit
    flip or another program need not be suspected for several steps before they are rolled back, and batches that are
    bad cost no rollback.

    The batch is measured again when loss or gradients are not finite, or when the loss is far above the last ones.

    Batches that are finite and wrong (noise, wrong labels) damage the weights little by little. So after an abrupt rise
    of the loss the last four batches are measured with the present weights and with those of the newest snapshot, which
    is from before the rise, every eight steps until the 64th. A run that learns new data does better with its present
    weights, and so does one that is still given wrong ones. Once the data are right again, the snapshot does better.

    Args:
        factor: Multiple of the usual spread of the losses, the highest of the last ones minus their median, by which
            the loss of the same batch may rise. Chosen, not measured.
        suspicious: The same multiple for the loss of a step, above which the last healthy batch is measured again.
            Chosen, not measured: a second forward pass changes nothing.
        rise: The same multiple for an abrupt rise, which must also undo more than `share` of the progress since the
            first step. Chosen, not measured: in 13 of 71 healthy recipes there is one, and no snapshot does better.
        share: Of the progress since the first step: below the first, a rise is not abrupt; by more than two thirds of
            it, and more than the usual spread, a snapshot must do better. Chosen.
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
    rise: float = 3.0
    share: float = 0.3
    window: int = 20
    name: str = "damaged_weights"

    def __post_init__(self) -> None:
        for field in ("factor", "suspicious", "rise", "share", "window"):
            require(getattr(self, field) > 0, f"DamagedWeights({field}=...)", "must be positive", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        back = f"where they were not rolled back, resume from a checkpoint from before step {finding.step}"
        return f"if it comes again, {lower_lr(stats)}; {back}"

    def init(self) -> State:
        rise = {"since_rise": None, "margin": 0.0, "hold_snapshots": False}
        return {"losses": [], "first": 0.0, **rise}

    def wants_recheck(self, state: State, stats: GradStats) -> bool:
        if stats.scaler_overflow or stats.multiple_optimizers or len(state["losses"]) < 3:
            return False
        if not stats.clean or stats.loss is None:
            return not stats.clean
        if stats.loss <= max(state["losses"]):
            return False
        return self._is_suspicious(state, stats.loss) or self._rises(state, stats.loss)

    def _is_suspicious(self, state: State, loss: float) -> bool:
        return loss - median(state["losses"]) > self.suspicious * self._spread(state)

    def _rises(self, state: State, loss: float) -> bool:
        """Whether a loss is the first one of an abrupt rise."""
        if state["since_rise"] is not None or len(state["losses"]) < self.window:
            return False
        by, progress = loss - median(state["losses"]), state["first"] - median(state["losses"])
        return bool(by > self.rise * self._spread(state) and by > self.share * progress)

    def _spread(self, state: State) -> float:
        usual: float = median(state["losses"])
        return float(max(max(state["losses"]) - usual, 0.1 * abs(usual), NEGLIGIBLE * abs(state["first"])))

    def wants_comparison(self, state: State, stats: GradStats) -> bool:
        known = stats.clean and stats.loss is not None
        return known and state["since_rise"] is not None and (state["since_rise"] + 1) % EVERY == 0

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        detail, now, limit = "", -math.inf, math.inf
        if stats.recheck is not None and state["losses"]:
            before, now = stats.recheck
            limit = before + self.factor * self._spread(state)
            detail = f"loss of the last healthy batch is {now:.3g}, it was {before:.3g} one step before"
        if now <= limit and stats.comparison is not None and self.wants_comparison(state, stats):
            now, before, error = stats.comparison
            limit = before + max(state["margin"], SURELY * error)
            detail = f"loss of the last batches is {now:.3g}, with the weights of the newest snapshot {before:.3g}"
        if not now <= limit:
            return state, (Finding(self.kind, stats.step, (), now, limit, f"{detail} (limit {limit:.3g})"),)
        if not stats.clean or stats.loss is None or stats.multiple_optimizers:
            return state, ()
        state = self._with_rise(state, stats)
        losses = state["losses"]
        if len(losses) >= 3 and stats.loss > max(losses) and self._is_suspicious(state, stats.loss):
            return state, ()
        first = state["first"] if losses else stats.loss
        return {**state, "losses": [*losses[1 - self.window :], stats.loss], "first": first}, ()

    def _with_rise(self, state: State, stats: GradStats) -> State:
        """The state with one more step since an abrupt rise; no snapshot is taken until the last comparison."""
        since = state["since_rise"]
        if since is not None:
            since = since + 1 if since < UNTIL else None
            return {**state, "since_rise": since, "hold_snapshots": since is not None}
        if stats.loss is None or not self._rises(state, stats.loss):
            return state
        progress = state["first"] - median(state["losses"])
        margin = max(self._spread(state), 2 / 3 * self.share * progress)
        # Where the last healthy batch shows that the weights are good, they are the best to come back to.
        return {**state, "since_rise": 0, "margin": margin, "hold_snapshots": not stats.weights_known_good}

    def wants_snapshot(self, state: State, stats: GradStats) -> bool:
        return state["since_rise"] == 0 and stats.clean and stats.weights_known_good

    def confirms_weights(self, state: State, stats: GradStats) -> bool:
        if stats.recheck is None or not state["losses"]:
            return False
        before, now = stats.recheck
        ordinary = before - median(state["losses"]) <= self.suspicious * self._spread(state)
        return ordinary and now <= before + self._spread(state)
