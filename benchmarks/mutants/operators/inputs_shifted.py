"""Inputs plus a number up to 1,000, either sign."""

from __future__ import annotations

from causes import INIT, LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    shift = draw.between(0.1, 1e3) * draw.random.choice((-1, 1))
    if not program.recipe.trained_inputs:
        return None
    for part in (program.train, program.held_out):
        part[0].add_(shift)
    return f"inputs + {shift:.3g}"


OPERATOR = Operator("inputs_shifted", mutate, ("unnormalized_input", *LARGE, *INIT, *SMALL))
