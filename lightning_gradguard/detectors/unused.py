"""DIAGNOSE: layers that never receive a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.renamed import renamed_fields
from lightning_gradguard.tensors.norms import Floats


@renamed_fields(least="min_steps")
@dataclass(frozen=True)
class Unused(AbstractDetector):
    """Reports layers whose gradient was missing or exactly zero on every step, while other layers received one.

    Typical causes: `forward` never calls the layer, its output is not used, or a `detach` follows it. One gradient on
    any step excludes the layer for the rest of the run, so an expert that is chosen rarely or a block that is dropped
    at random is not reported. A frozen layer is counted from the step on which it is unfrozen.

    A gradient of zero at a layer's output means that a later layer blocks it, which `DeadUnits` and `Stalled` report;
    an activation sample with such a layer resets all counts. The finding is repeated as long as a layer is unused, so
    there is one incident, open to the end of the run. The run is none the worse for it: its outcome does not depend on
    this incident. A replay reports nothing, because frozen layers are not recorded.

    Args:
        steps: Steps without a gradient; a tenth of the planned steps if that is fewer, but at least `min_steps`. 1,000
            steps miss a layer that is used on one step in a hundred with a chance of 4 in 100,000.
        min_steps: See `steps`. Chosen, not measured.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> detector = Unused(steps=60, min_steps=60)
        >>> state = detector.init()
        >>> for step in range(100):
        ...     trainable = np.array([True, True]) if step % 50 == 1 else None
        ...     stats = GradStats.of({"net.0": 1.0, "spare": 0.0}, step=step, trainable=trainable)
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 99: unused in spare: received no gradient in 100 steps (limit 60)
    """

    kind: ClassVar[str] = "unused"
    page: ClassVar[str] = "no_progress"
    steps: int = 1000
    min_steps: int = 100
    name: str = "unused"

    def __post_init__(self) -> None:
        for field in ("steps", "min_steps"):
            require(getattr(self, field) >= 1, f"Unused({field}=...)", "must be positive", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "call the layers in forward, freeze them (requires_grad_(False)), or remove them"

    def init(self) -> State:
        return {"missed": np.zeros(0), "trainable": None, "used": False}

    def renew(self, state: State, improved: bool) -> State:
        return state  # other weights do not change which layers are called

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        missed = state["missed"]  # steps without a gradient; -1 for a layer that has received one
        if len(missed) != len(stats.grad_norm):
            state = {**self.init(), "missed": np.zeros(len(stats.grad_norm))}
            missed = state["missed"]
        if state["used"]:
            return state, ()
        missed = np.where((missed >= 0) & (stats.grad_norm == 0), missed + 1, -1.0)
        if stats.activation_stats is not None:
            missed = mark_reached(missed, stats.layers.names, stats.activation_stats)
        trainable = state["trainable"] if stats.trainable is None else stats.trainable
        if trainable is not None:
            missed = np.where(trainable, missed, np.minimum(missed, 0))
        state = {"missed": missed, "trainable": trainable, "used": bool((missed < 0).all())}
        if trainable is None or not stats.global_norm > 0:
            return state, ()
        limit = max(self.min_steps, min(self.steps, (stats.total_steps or 10 * self.steps) // 10))
        unused = missed >= limit
        if not unused.any():
            return state, ()
        names, most = stats.layers.pick(unused, by=missed), float(missed.max())
        detail = f"received no gradient in {most:,.0f} steps (limit {limit:,})"
        return state, (Finding(self.kind, stats.step, names, most, limit, detail, is_notice=True),)


def mark_reached(missed: Floats, names: tuple[str, ...], sample: ActivationStats) -> Floats:
    """The counts after a sample: a layer whose output received a gradient is used; one of zero resets all counts.

    Args:
        missed: Steps without a gradient for each layer, -1 for a used one, `[L]`.
        names: Names of these layers, `[L]`.
        sample: The activation statistics.

    Example:
        >>> sample = ActivationStats(layers=("a", "b"), grad_rms=np.array([0.0, np.nan]))
        >>> mark_reached(np.array([5.0, 5.0, 5.0]), ("a", "b", "c"), sample).tolist()
        [-1.0, 0.0, 0.0]
    """
    reached = {name for name, rms in zip(sample.layers, sample.grad_rms, strict=True) if not np.isnan(rms)}
    missed = np.where([name in reached for name in names], -1.0, missed)
    return np.minimum(missed, 0.0) if (sample.grad_rms == 0).any() else missed
