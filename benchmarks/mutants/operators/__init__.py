"""Ways to break a recipe: every file of this folder defines one, with `@operator`."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from mutants.recipes import Recipe
from mutants.setups import Setup

STATIC, SUDDEN = "static", "sudden"

#: Kinds of incident that name a cause, by what the cause is called.
LARGE_STEPS = (
    "lr_too_large", "lr_jump", "overshooting", "oscillating", "diverging", "exploding", "early_outlier", "nonfinite",
)  # fmt: skip
SMALL_STEPS = ("lr_too_small", "no_progress", "stalled")
BAD_WEIGHTS = ("poor_initialization", "saturated", "dead_units", "collapsed", "vanishing", "exploding")
BAD_INPUT = ("unnormalized_input", "bad_batch", "loss_spike", "exploding", "early_outlier", "exploding_buffer")
DAMAGE = ("damaged_weights", "loss_spike", "loss_increase", "exploding", "nonfinite", "nonfinite_state")


@dataclass(frozen=True)
class Operator:
    """Breaks a run, a little or a lot.

    Args:
        name: Unique; the name of its file.
        mutate: Changes the setup, by a severity.
        kinds: Kinds of incident that name the right cause.
        severity: Smallest and largest; drawn log-uniformly.
        needs: Traits that a recipe must have.
        onset: `STATIC` from the first step on, or `SUDDEN` at a random step.
    """

    name: str
    mutate: Callable[[Setup, float], object]
    kinds: frozenset[str]
    severity: tuple[float, float]
    needs: frozenset[str]
    onset: str

    def applies(self, recipe: Recipe) -> bool:
        """Whether the recipe has what it changes."""
        return self.needs <= recipe.traits

    def draw(self, random: Random) -> float:
        """A severity."""
        low, high = map(math.log, self.severity)
        return float(f"{math.exp(random.uniform(low, high)):.3g}")


def operator(
    kinds: Iterable[str], severity: tuple[float, float] = (1.0, 1.0), needs: Iterable[str] = (), onset: str = STATIC
) -> Callable[[Callable[[Setup, float], object]], Operator]:
    """Turns `mutate(setup, severity)` into an operator with its name."""
    return lambda mutate: Operator(mutate.__name__, mutate, frozenset(kinds), severity, frozenset(needs), onset)


def discover() -> dict[str, Operator]:
    """Every operator of the folder, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Operator)]
    return {operator.name: operator for operator in found}
