"""ACT: one set of remedies on trial: how it went, and how two of them compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_gradguard.collect.activation_stats import MIN_SPREAD, ActivationStats, decades_through_time
from lightning_gradguard.step.saved_state import SavedState

#: Decades that a gradient loses or gains over time until it says nothing; as in `VanishingThroughTime` and its twin.
FADED, GROWN = 5.0, 4.0


@dataclass
class TrialRun:
    """One set of remedies: what was done, and how the loss ended.

    Args:
        name: Names of the remedies.
        summary: What they did.
        cause: What was wrong with the run if they help.
        level: Mean loss of the trial's later half; inf when it failed.
        error: Its standard error.
        blocked: Whether signal or gradient were still blocked at its end.
        begin: Where it began, if that was a new beginning: the initial weights, changed.
        end: Where it stopped.
        activation_stats: The last ones.
    """

    name: str
    summary: str
    cause: str = ""
    level: float = math.inf
    error: float = 0.0
    blocked: bool = False
    begin: SavedState | None = None
    end: SavedState | None = None
    activation_stats: ActivationStats | None = None


def better(trial: TrialRun, best: TrialRun) -> bool:
    """Whether a later trial beats an earlier, gentler one: by telling samples apart, or by loss, beyond doubt."""
    if trial.blocked != best.blocked:
        return best.blocked
    return trial.level < best.level - 2 * math.hypot(trial.error, best.error)


def level_of(losses: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the largest tenth is left out, so that one bad batch does not decide.

    Example:
        >>> level_of([1.0, 1.0, 1.0, 1.0])
        (1.0, 0.0)
    """
    kept = np.sort(np.asarray(losses, dtype=np.float64))[: math.ceil(0.9 * len(losses))]
    return float(kept.mean()), float(kept.std() / math.sqrt(max(len(kept) - 1, 1)))


def is_blocked(activation_stats: ActivationStats | None) -> bool:
    """Whether a hidden layer gives every sample the same answer, or a gradient is lost on its way through time."""
    if activation_stats is None:
        return False
    decades = [decades_through_time(gradient) for gradient in activation_stats.time.values()]
    return bool(activation_stats.constant_layers(MIN_SPREAD)) or any(d <= -FADED or d >= GROWN for d in decades)
