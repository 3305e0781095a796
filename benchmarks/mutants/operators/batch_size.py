"""Batches of 1 up to 512 samples."""

from __future__ import annotations

from causes import LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    size = round(draw.between(1, 512))
    program.batch_size = min(size, len(program.train[0]))
    return f"batches of {size}"


OPERATOR = Operator("batch_size", mutate, LARGE + SMALL)
