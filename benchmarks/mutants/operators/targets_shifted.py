"""Targets of a regression plus a number up to 1,000."""

from __future__ import annotations

from causes import LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    shift = draw.between(0.1, 1e3)
    if not program.recipe.regression:
        return None
    for part in (program.train, program.held_out):
        part[-1].add_(shift)
    return f"targets + {shift:.3g}"


OPERATOR = Operator("targets_shifted", mutate, ("unnormalized_target", *LARGE, *SMALL))
