"""Inputs times a factor up to 10,000, either way."""

from __future__ import annotations

from causes import INIT, LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    factor = draw.either_way(1e4)
    if not program.recipe.trained_inputs:
        return None
    for part in (program.train, program.held_out):
        part[0].mul_(factor)
    return f"inputs x {factor:.3g}"


OPERATOR = Operator("inputs_times", mutate, ("unnormalized_input", *LARGE, *INIT, *SMALL))
