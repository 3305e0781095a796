"""NaN in a few training samples."""

from __future__ import annotations

from causes import DATA
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    count = round(draw.between(1, 50))
    if not program.recipe.trained_inputs:
        return None
    for index in draw.random.sample(range(len(program.train[0])), count):
        program.train[0][index] = float("nan")
    return f"{count} samples of NaN"


OPERATOR = Operator("nan_samples", mutate, DATA)
