"""Fault-free training programs that a guard must not change. A new recipe is one function in one of these files."""

from recipes import deep, noisy, objectives, schedules, sequences  # noqa: F401  (importing them registers the recipes)
from recipes.base import RECIPES, STEPS, Learner, Outcome, Program, Recipe, batches, run, same

__all__ = ["RECIPES", "STEPS", "Learner", "Outcome", "Program", "Recipe", "batches", "run", "same"]
