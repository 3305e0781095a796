"""COLLECT: where the loss of a run stands now, and where it stood at its best.

An incident has ended well when the loss is back where it was, and a run when it ends near its best. Both compare
medians of several losses, because at a batch size of one a single loss says nothing.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any, NamedTuple

from lightning_gradguard.collect.loss_trend import DEFAULT_TOTAL_STEPS

#: All that is kept: numbers and lists of numbers.
State = dict[str, Any]

#: Key of this state among the detectors' states.
LOSS_LEVEL = "loss_level"
#: A level is the median of a tenth of the planned steps, of `SHORTEST` to `LONGEST` losses. Chosen.
SHARE, SHORTEST, LONGEST = 10, 20, 200
#: Fewest losses of a level, and steps between two levels. Chosen.
FEWEST = 5
#: Levels whose errors tell how much a level scatters by chance. Chosen.
TYPICAL = 50
#: Standard errors by which two levels must differ: the best of many is below the others by chance alone. Measured on
#: simulated losses without a trend (`tests/test_outcomes.py`).
SURELY = 7.0
#: Share of all progress that a run may have lost at its end and not be degraded. Chosen.
NEAR_BEST = 0.1
#: Share of its steps that a run may lose, skipped or rolled back, and not be degraded. Chosen.
LOST = 0.2

#: Before the first loss.
INITIAL: State = {"size": 0, "recent": [], "first": math.nan, "best": math.nan, "errors": [], "lost": 0}


class Standing(NamedTuple):
    """Where the loss of a run stands.

    Args:
        now: The median of the last losses.
        best: The lowest such median.
        lost: Steps that were skipped or rolled back.
        is_degraded: Whether the first is above the second, by more than chance and a tenth of all progress, or more
            than a fifth of the steps were skipped or rolled back.
    """

    now: float = math.nan
    best: float = math.nan
    lost: int = 0
    is_degraded: bool = False


def follow_level(state: State, step: int, loss: float, total_steps: int | None = None) -> State:
    """The state after one more step that was taken, with a finite loss.

    Example:
        >>> state = INITIAL
        >>> for step in range(60):
        ...     state = follow_level(state, step, 2.0 if step < 20 else 0.5 if step < 40 else 1.0, total_steps=200)
        >>> state["first"], state["best"], level_since(state)
        (2.0, 0.5, 1.0)
    """
    if state["size"] == math.inf:
        return state
    size = state["size"] or min(max((total_steps or DEFAULT_TOTAL_STEPS) // SHARE, SHORTEST), LONGEST)
    recent = [*state["recent"], [step, loss]][-size:]
    state = {**state, "size": size, "recent": recent}
    if len(recent) < size or (state["errors"] and step % FEWEST):  # a median at every step would be wasted
        return state
    losses = [loss for _, loss in recent]
    now = median(losses)
    # Of a median, for a normal distribution, from the median absolute deviation.
    error = 1.2533 * 1.4826 * median(abs(loss - now) for loss in losses) / math.sqrt(size)
    begun = not state["errors"]
    return {
        **state,
        "errors": [*state["errors"], error][-TYPICAL:],
        "first": now if begun else state["first"],
        "best": now if begun else min(now, state["best"]),
    }


def ended(state: State) -> State:
    """The state after the objective has changed: losses are not compared any more."""
    return {**INITIAL, "size": math.inf, "lost": state["lost"]}


def level_since(state: State, step: int = 0) -> float:
    """The median of the recent losses from a step on; NaN when they are fewer than `FEWEST`."""
    losses = [loss for at, loss in state["recent"] if at >= step]
    return median(losses) if len(losses) >= FEWEST else math.nan


def limit_above(state: State, loss: float, share: float) -> float:
    """What a level may be and still not be above `loss`; NaN when not enough is known.

    A loss below zero is a log-likelihood, or a surrogate (policy gradients) that returns to zero as the run succeeds:
    there only a level above zero and above the first one is above.

    Args:
        state: As of now.
        loss: The level compared with.
        share: Of all progress so far, between 0 and 1: a smaller difference does not count.
    """
    if not state["errors"]:
        return math.nan
    base = loss if loss >= 0 else max(loss, state["first"], 0.0)
    # The lower quartile: in a run that has become restless the later errors are no measure of chance.
    typical = sorted(state["errors"])[len(state["errors"]) // 4]
    chance = SURELY * math.sqrt(2) * typical
    return float(base + max(chance, share * (state["first"] - state["best"])))


def standing_of(state: State, steps: int) -> Standing:
    """Where the loss stands after so many steps, for the report."""
    now, best = level_since(state), state["best"]
    degraded = now > limit_above(state, best, NEAR_BEST) or state["lost"] > LOST * max(steps, FEWEST)
    return Standing(now, best, state["lost"], degraded)
