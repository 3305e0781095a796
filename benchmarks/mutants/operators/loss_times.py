"""The loss times a factor up to 10,000, either way."""

from __future__ import annotations

from causes import LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    factor, loss = draw.either_way(1e4), program.loss
    program.loss = lambda *given: factor * loss(*given)
    return f"loss x {factor:.3g}"


OPERATOR = Operator("loss_times", mutate, LARGE + SMALL)
