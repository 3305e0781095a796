"""DIAGNOSE: optimizer steps that change nothing, or next to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.loss_trend import DEFAULT_TOTAL_STEPS
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.renamed import renamed_fields

#: A larger `eps` was chosen as a constant scale of the updates, as for RMSprop in several published recipes.
LARGEST_EPS = 1e-6


@renamed_fields(arrived="converged")
@dataclass(frozen=True)
class Stalled(AbstractDetector):
    """Reports a run whose optimizer steps change nothing, or next to nothing, and why.

    * A GradScaler has skipped `patience` steps in a row, because gradients overflow again and again.
    * The gradient is exactly zero for `patience` steps in a row.
    * The learning rate is exactly zero for a tenth of the planned steps.
    * Two sampled updates in a row are exactly zero although the gradient is not: they are lost in rounding.
    * The gradients have been too small for the `eps` of Adam or RMSprop from the first step on. Their update is divided
      by `sqrt(v) + eps`, where `sqrt(v)` is the scale of the gradients: one that `eps` outweighs no longer makes up for
      a small loss. An `eps` above 1e-6 was chosen, and is not reported.

    A zero gradient and a lost update are not reported when the loss is below `converged` of the first one, or the
    learning rate is zero.

    Args:
        patience: Steps in a row. A scaler that starts at 65536 skips 16 steps until its scale is 1; 20 is more than any
            routine search for a scale needs.
        converged: Share of the first loss below which the run is finished. Chosen, not measured.
        eps_ratio: Largest RMS gradient of a layer over `eps` below which gradients are too small. At 30 the updates of
            that layer lose 3 %, those of one whose gradients are 30 times smaller a half. The smallest of 71 healthy
            recipes in their first 25 steps was 148,000.
        name: Key of the state.

    Raises:
        ValueError: If `patience` is not positive or `converged` outside [0, 1), or `eps_ratio` is not positive.

    Example:
        >>> detector = Stalled(patience=3)
        >>> state = detector.init()
        >>> for step in range(3):
        ...     state, found = detector.update(state, GradStats.of({"a": 0.0}, step=step, loss=0.69, lr=0.1))
        >>> print(*found)
        step 2: stalled: gradient is zero for 3 steps in a row (limit 3)
    """

    kind: ClassVar[str] = "stalled"
    page: ClassVar[str] = "no_progress"
    patience: int = 20
    converged: float = 0.01
    eps_ratio: float = 30.0
    name: str = "stalled"

    def __post_init__(self) -> None:
        require(self.patience >= 1, "Stalled(patience=...)", "must be at least 1", self.patience)
        require(0 <= self.converged < 1, "Stalled(converged=...)", "must be in [0, 1)", self.converged)
        require(self.eps_ratio > 0, "Stalled(eps_ratio=...)", "must be positive", self.eps_ratio)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        if stats.scaler_overflow:
            return 'train in Trainer(precision="bf16-mixed"), which needs no GradScaler'
        if stats.lr == 0:
            return "let the schedule of the learning rate last as long as the run"
        if stats.global_norm == 0:
            return "look for a detach, a constant loss, or units that are all dead or saturated"
        if 0 < (ratio := rms_over_eps(stats)) < self.eps_ratio:
            factor, smaller = self.eps_ratio / ratio, stats.eps * ratio / self.eps_ratio
            return f"multiply the loss by about {factor:.0e}, or set the optimizer's eps to about {smaller:.0e}"
        return 'keep the weights in float32 (precision="bf16-mixed", not "bf16-true"), or raise the learning rate'

    def init(self) -> State:
        counts = dict.fromkeys(("overflows", "zero_gradients", "zero_updates", "zero_lr", "small_gradients"), 0)
        return {"first": None, "rms_over_eps": 0.0, **counts}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.scaler_overflow:
            return self._judged({**state, "overflows": state["overflows"] + 1}, stats)
        if not stats.clean:
            return state, ()
        first = abs(stats.loss) if state["first"] is None and stats.loss is not None else state["first"]
        excused = stats.lr == 0 or not stats.layers.names
        if first is not None and stats.loss is not None:
            excused = excused or abs(stats.loss) < self.converged * first
        gradients = 0 if excused or stats.global_norm > 0 else state["zero_gradients"] + 1
        updates = state["zero_updates"]
        if stats.update_ratio is not None:
            updates = updates + 1 if not excused and stats.global_norm > 0 and not stats.update_ratio.any() else 0
        counts = {"overflows": 0, "zero_gradients": gradients, "zero_updates": updates}
        counts["zero_lr"] = state["zero_lr"] + 1 if stats.lr == 0 else 0
        if state["rms_over_eps"] < self.eps_ratio and (ratio := rms_over_eps(stats)) > 0:
            counts["small_gradients"] = state["small_gradients"] + 1
            state = {**state, "rms_over_eps": max(state["rms_over_eps"], ratio)}
        return self._judged({**state, "first": first, **counts}, stats)

    def _judged(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        """The state, and the first of the reasons that holds."""
        rest = max(self.patience, (stats.total_steps or DEFAULT_TOTAL_STEPS) // 10)
        count: float
        limit: float
        if state["overflows"] >= self.patience:
            count, limit, what = state["overflows"], self.patience, "GradScaler skipped {} steps in a row"
        elif state["zero_gradients"] >= self.patience:
            count, limit, what = state["zero_gradients"], self.patience, "gradient is zero for {} steps in a row"
        elif state["zero_updates"] >= 2:
            count, limit, what = state["zero_updates"], 2, "update is lost in rounding in {} samples in a row"
        elif state["small_gradients"] >= self.patience and state["rms_over_eps"] < self.eps_ratio:
            count, limit = state["rms_over_eps"], self.eps_ratio
            what = f"RMS gradient has never been above {{:.3g}} times the optimizer's eps of {stats.eps:g}"
        elif state["zero_lr"] >= rest:
            count, limit, what = state["zero_lr"], rest, "learning rate is zero for {} steps in a row"
        else:
            return state, ()
        return state, (Finding(self.kind, stats.step, (), count, limit, f"{what.format(count)} (limit {limit:g})"),)


def rms_over_eps(stats: GradStats) -> float:
    """The largest RMS gradient of a layer over the optimizer's `eps`; 0 where there is none, or it was chosen.

    Example:
        >>> round(rms_over_eps(GradStats.of({"a": 3e-8, "b": 4e-8}, numel=4, eps=1e-8)), 3)
        2.0
        >>> rms_over_eps(GradStats.of({"a": 3e-8}, eps=1e-3))
        0.0
    """
    if not (0 < stats.eps <= LARGEST_EPS and len(stats.layers)):
        return 0.0
    return float(np.max(stats.grad_norm / np.sqrt(stats.layers.numel))) / stats.eps
