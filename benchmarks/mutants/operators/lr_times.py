"""The learning rate times a factor up to 10,000, either way."""

from __future__ import annotations

from causes import LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    factor = draw.either_way(1e4)
    program.settings["lr"] *= factor
    return f"lr x {factor:.3g}"


OPERATOR = Operator("lr_times", mutate, LARGE + SMALL)
