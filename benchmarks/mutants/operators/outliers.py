"""Inputs of a few training samples times up to 1e6."""

from __future__ import annotations

from causes import DATA
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    count, factor = round(draw.between(1, 50)), draw.between(10, 1e6)
    if not program.recipe.trained_inputs:
        return None
    for index in draw.random.sample(range(len(program.train[0])), count):
        program.train[0][index] *= factor
    return f"{count} samples x {factor:.3g}"


OPERATOR = Operator("outliers", mutate, DATA)
