"""From a number to a mutant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from random import Random

from mutants import operators, recipes
from mutants.operators import Operator
from mutants.recipes import Recipe
from mutants.setups import Setup

#: Seeds of mutants; those from 0 on set the margins.
SEEDS = range(100, 120)


@dataclass(frozen=True)
class Mutant:
    """One recipe, with one seed, broken by one operator; without an operator it is healthy."""

    recipe: str
    seed: int
    operator: str = ""
    severity: float = 1.0

    @property
    def healthy(self) -> Mutant:
        """The same run without the operator."""
        return Mutant(self.recipe, self.seed)

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of incident that name the right cause."""
        return every_operator()[self.operator].kinds if self.operator else frozenset()

    @property
    def onset(self) -> str:
        """Whether it is broken from the start, or suddenly."""
        return every_operator()[self.operator].onset

    def setup(self) -> Setup:
        """The run; what is random in it depends on nothing but the mutant. Set the global seed before."""
        setup = every_recipe()[self.recipe].setup(Random(repr(self)))
        if self.operator:
            every_operator()[self.operator].mutate(setup, self.severity)
        return setup

    def __str__(self) -> str:
        return f"{self.recipe}, {self.operator or 'healthy'} {self.severity:g}, seed {self.seed}"


def mutant(number: int) -> Mutant:
    """The mutant with a number. Another recipe or operator changes only those mutants that it takes over."""
    random = Random(f"mutant {number}")
    recipe = every_recipe()[_pick(number, every_recipe())]
    applicable = {name: operator for name, operator in every_operator().items() if operator.applies(recipe)}
    operator = applicable[_pick(number, applicable)]
    return Mutant(recipe.name, random.choice(SEEDS), operator.name, operator.draw(random))


def _pick(number: int, names: Iterable[str]) -> str:
    """The name with the highest score for the number, so that all are equally likely."""
    return max(names, key=lambda name: sha256(f"{number} {name}".encode()).digest())


@cache
def every_recipe() -> dict[str, Recipe]:
    """By name."""
    return recipes.discover()


@cache
def every_operator() -> dict[str, Operator]:
    """By name."""
    return operators.discover()
