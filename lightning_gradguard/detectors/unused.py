"""DIAGNOSE: layers that take no part in the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding
from lightning_gradguard.tensors.norms import Floats


@dataclass(frozen=True)
class Unused(AbstractDetector):
    """Reports layers whose gradient was missing or exactly zero at every step, while others received one.

    Such a layer is trained by nobody: `forward` never calls it, its output is thrown away, or a `detach` stands behind
    it. One gradient at any step ends the suspicion for good, so an expert that is chosen now and then, or a block that
    is dropped at random, is not unused. A frozen layer is not meant to receive one: its count begins when it is thawed.
    One whose output is sent a gradient of zero is cut off by what comes after it, which is the business of `DeadUnits`
    and `Stalled`: while a look sees such a layer, nobody is accused. As long as a layer is unused the finding is
    repeated, so the run has one incident of it, open to the end. A replay is silent: what was frozen is not recorded.

    Args:
        steps: Steps without a gradient; in a run of less than ten times as many steps a tenth of them, but at least
            `least`. A part that is used once in a hundred steps is missed for 1,000 with a chance of 4 in 100,000.
            Chosen.
        least: See `steps`. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> detector = Unused(steps=60, least=60)
        >>> state = detector.init()
        >>> for step in range(100):
        ...     trainable = np.array([True, True]) if step % 50 == 1 else None
        ...     stats = GradStats.of({"net.0": 1.0, "spare": 0.0}, step=step, trainable=trainable)
        ...     state, found = detector.update(state, stats)
        >>> print(*found)
        step 99: unused in spare: steps without any gradient (100, limit 60)
    """

    kind: ClassVar[str] = "unused"
    steps: int = 1000
    least: int = 100
    name: str = "unused"

    def __post_init__(self) -> None:
        for field in ("steps", "least"):
            require(getattr(self, field) >= 1, f"Unused({field}=...)", "must be positive", getattr(self, field))

    def init(self) -> State:
        return {"missed": np.zeros(0), "trainable": None, "used": False}

    def renew(self, state: State, improved: bool) -> State:
        return state  # a layer that is not called is not called with other weights either

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        missed = state["missed"]  # steps without a gradient; -1 for a layer that has had one
        if len(missed) != len(stats.layers):
            state = {**self.init(), "missed": np.zeros(len(stats.layers))}
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
        limit = max(self.least, min(self.steps, (stats.total_steps or 10 * self.steps) // 10))
        unused = missed >= limit
        if not unused.any():
            return state, ()
        names, most = stats.layers.pick(unused, by=missed), float(missed.max())
        return state, (Finding(self.kind, stats.step, names, most, limit, "steps without any gradient"),)


def mark_reached(missed: Floats, names: tuple[str, ...], look: ActivationStats) -> Floats:
    """The counts after a look: a layer whose output was sent a gradient is used, and one of zero suspends all counts.

    Example:
        >>> look = ActivationStats(layers=("a", "b"), grad_rms=np.array([0.0, np.nan]))
        >>> mark_reached(np.array([5.0, 5.0, 5.0]), ("a", "b", "c"), look).tolist()
        [-1.0, 0.0, 0.0]
    """
    reached = {name for name, rms in zip(look.layers, look.grad_rms, strict=True) if not np.isnan(rms)}
    missed = np.where([name in reached for name in names], -1.0, missed)
    return np.minimum(missed, 0.0) if (look.grad_rms == 0).any() else missed
