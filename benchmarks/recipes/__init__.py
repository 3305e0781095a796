"""Fault-free training programs: what a guard has to leave alone. A new recipe is one function in one of these files."""

from recipes import deep, noisy, objectives, schedules, sequences  # noqa: F401  (they register their recipes)
from recipes.base import RECIPES, STEPS, Learner, Outcome, Program, Recipe, batches, run, same

__all__ = ["RECIPES", "STEPS", "Learner", "Outcome", "Program", "Recipe", "batches", "run", "same"]
