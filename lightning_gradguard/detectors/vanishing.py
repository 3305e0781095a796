"""DIAGNOSE: gradients that shrink on their way back to the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, median, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class Vanishing(AbstractDetector):
    """Reports RMS gradients that shrink by `decades` or more from the last layer to the first and hinder training.

    The loss over depth is the least-squares slope of the log10 RMS gradient times the depth, over the layers with a
    weight matrix. It alone is no symptom, because Adam rescales small gradients. It is reported when the loss no longer
    decreases, or when the first layer's updates are too small to move it (`floor`), and all this lasts for `patience`
    steps. Whether the loss decreases is tested ten times per window.

    Args:
        decades: Loss from the last layer to the first. AUTOTRAINER takes 3 (Zhang et al. 2021, ICSE, beta1 = 1e-3).
            Healthy runs stayed below 0.7 for 50 steps in a row, failing ones above 2.9 (`python
            benchmarks/calibrate.py`); 2 lies between.
        floor: Update-to-weight ratio per step below which a layer counts as frozen: 1e-7 is half a unit in the last
            place of fp32 (IEEE 754), below which an update is lost in rounding.
        patience: Steps in a row. Chosen, not measured.
        window: Steps within which the loss must decrease by more than its scatter. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> detector = Vanishing(patience=3, window=4)
        >>> state = detector.init()
        >>> vanishing = {f"net.{i}": 10.0 ** (i - 5) for i in range(5)}
        >>> for step in range(6):
        ...     state, found = detector.update(state, GradStats.of(vanishing, step=step, loss=2.3))
        >>> print(*found)
        step 5: vanishing in net.0, net.1, net.2: RMS gradient shrinks by 4 decades from last to first layer (limit 2)

    References:
        Glorot and Bengio 2010; Hochreiter 1991.
    """

    kind: ClassVar[str] = "vanishing"
    page: ClassVar[str] = "vanishing"
    decades: float = 2.0
    floor: float = 1e-7
    patience: int = 50
    window: int = 100
    name: str = "vanishing"

    def __post_init__(self) -> None:
        for field in ("decades", "floor", "patience", "window"):
            require(getattr(self, field) > 0, f"Vanishing({field}=...)", "must be positive", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "use ReLU or ELU with He's initial weights (fixes.he), or residual connections (fixes.add_residual)"

    def init(self) -> State:
        return {"losses": [], "stuck": False, "frozen": False, "steps": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if not stats.clean:
            return state, ()
        state = self._observe(state, stats)
        lost = self._decades_lost(stats) if state["frozen"] or state["stuck"] else 0.0
        if not lost >= self.decades:
            state["steps"] = 0
            return state, ()
        state["steps"] += 1
        if state["steps"] < self.patience:
            return state, ()
        small = stats.layers.matrix & (stats.log_rms <= stats.log_rms[stats.layers.matrix].max() - self.decades)
        layers = stats.layers.pick(small, by=-stats.log_rms)
        detail = f"RMS gradient shrinks by {lost:.3g} decades from last to first layer (limit {self.decades:.3g})"
        return state, (Finding(self.kind, stats.step, layers, lost, self.decades, detail),)

    def _decades_lost(self, stats: GradStats) -> float:
        """Decades from the last layer to the first; NaN when unknown."""
        depth = int(np.isfinite(stats.log_rms[stats.layers.matrix]).sum())
        return stats.depth_slope * (depth - 1)

    def _observe(self, state: State, stats: GradStats) -> State:
        """A new state with this step's loss and update."""
        losses, stuck, frozen = state["losses"], state["stuck"], state["frozen"]
        if stats.loss is not None and not stats.multiple_optimizers:
            losses = [*losses, stats.loss][-self.window :]
            stuck = self._is_stuck(losses) if stats.step % max(self.window // 10, 1) == 0 else stuck
        if stats.update_ratio is not None and stats.lr > 0:
            frozen = bool((stats.update_ratio[stats.layers.matrix][:1] < self.floor).any())
        return {"losses": losses, "stuck": stuck, "frozen": frozen, "steps": state["steps"]}

    def _is_stuck(self, losses: list[float]) -> bool:
        """Whether the later half of the window is not below the earlier half, beyond its scatter."""
        if len(losses) < self.window:
            return False
        half = self.window // 2
        earlier, later = losses[:half], losses[half:]
        usual = median(earlier)
        return median(later) >= usual - median(abs(loss - usual) for loss in earlier)
