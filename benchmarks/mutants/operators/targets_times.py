"""Targets of a regression times a factor up to 10,000, either way."""

from __future__ import annotations

from causes import LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    factor = draw.either_way(1e4)
    if not program.recipe.regression:
        return None
    for part in (program.train, program.held_out):
        part[-1].mul_(factor)
    return f"targets x {factor:.3g}"


OPERATOR = Operator("targets_times", mutate, ("unnormalized_target", *LARGE, *SMALL))
