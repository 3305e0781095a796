"""The initial weights of one layer times a factor up to 10,000, either way."""

from __future__ import annotations

from causes import INIT
from edits import fill
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    factor = draw.either_way(1e4)
    fill(draw.layer(program), factor)
    return f"one layer x {factor:.3g}"


OPERATOR = Operator("one_layer_times", mutate, INIT)
