"""DIAGNOSE: gradients that fade on their way back to the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, median, require
from lightning_gradguard.findings import Finding


@dataclass(frozen=True)
class Vanishing(AbstractDetector):
    """Reports RMS gradients that fall by `decades` or more from the last layer to the first and hurt the run.

    The fall is the least-squares slope of log10 RMS gradient over depth times the depth, over layers with a weight
    matrix. A fall alone is no symptom: Adam rescales small gradients. It hurts when the loss has stopped falling, or
    when the first layer's updates are so small (`floor`) that the optimizer cannot move it. Both have to last for
    `patience` steps in a row; whether the loss still falls is looked at ten times in a window.

    Args:
        decades: Fall from output to input. AUTOTRAINER takes 3 (Zhang et al. 2021, ICSE, beta1 = 1e-3); healthy runs
            stayed below 0.7 for 50 steps in a row, sick ones above 2.9 (`benchmarks/calibrate.py`); 2 lies between.
        floor: Update-to-weight ratio per step below which a layer counts as frozen: 1e-7 is half a unit in the last
            place of fp32 (IEEE 754), below which an update is lost in rounding.
        patience: Steps in a row. Chosen.
        window: Steps in which the loss must fall by more than its own scatter. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> detector = Vanishing(patience=3, window=4)
        >>> state = detector.init()
        >>> fading = {f"net.{i}": 10.0 ** (i - 5) for i in range(5)}
        >>> for step in range(6):
        ...     state, found = detector.update(state, GradStats.of(fading, step=step, loss=2.3))
        >>> print(*found)
        step 5: vanishing in net.0, net.1, net.2: decades lost over depth (4, limit 2)

    References:
        Glorot and Bengio 2010; Hochreiter 1991.
    """

    kind: ClassVar[str] = "vanishing"
    decades: float = 2.0
    floor: float = 1e-7
    patience: int = 50
    window: int = 100
    name: str = "vanishing"

    def __post_init__(self) -> None:
        for field in ("decades", "floor", "patience", "window"):
            require(getattr(self, field) > 0, f"Vanishing({field}=...)", "must be positive", getattr(self, field))

    def init(self) -> State:
        return {"losses": [], "stuck": False, "frozen": False, "steps": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if not stats.clean:
            return state, ()
        state = self._watched(state, stats)
        lost = self._lost(stats) if state["frozen"] or state["stuck"] else 0.0
        if not lost >= self.decades:
            state["steps"] = 0
            return state, ()
        state["steps"] += 1
        if state["steps"] < self.patience:
            return state, ()
        faint = stats.layers.matrix & (stats.log_rms <= stats.log_rms[stats.layers.matrix].max() - self.decades)
        layers = stats.layers.pick(faint, by=-stats.log_rms)
        return state, (Finding(self.kind, stats.step, layers, lost, self.decades, "decades lost over depth"),)

    def _lost(self, stats: GradStats) -> float:
        """Decades from the last layer to the first."""
        slope = stats.depth_slope
        if not slope > 0:
            return 0.0
        return slope * (int(np.isfinite(stats.log_rms[stats.layers.matrix]).sum()) - 1)

    def _watched(self, state: State, stats: GradStats) -> State:
        losses, stuck, frozen = state["losses"], state["stuck"], state["frozen"]
        if stats.loss is not None and not stats.multiple_optimizers:
            losses = [*losses, stats.loss][-self.window :]
            stuck = self._stuck(losses) if stats.step % max(self.window // 10, 1) == 0 else stuck
        if stats.update_ratio is not None and stats.lr > 0:
            frozen = bool((stats.update_ratio[stats.layers.matrix][:1] < self.floor).any())
        return {"losses": losses, "stuck": stuck, "frozen": frozen, "steps": state["steps"]}

    def _stuck(self, losses: list[float]) -> bool:
        """Whether the later half of the window is no lower than the earlier one, beyond the scatter."""
        if len(losses) < self.window:
            return False
        half = self.window // 2
        earlier, later = losses[:half], losses[half:]
        usual = median(earlier)
        return median(later) >= usual - median(abs(loss - usual) for loss in earlier)
