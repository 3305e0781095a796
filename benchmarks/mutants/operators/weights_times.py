"""All initial weights times a factor up to 100, either way."""

from __future__ import annotations

from causes import INIT
from edits import fill
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    factor = draw.either_way(100.0)
    for layer in program.layers:
        fill(layer, factor)
    return f"weights x {factor:.3g}"


OPERATOR = Operator("weights_times", mutate, INIT)
