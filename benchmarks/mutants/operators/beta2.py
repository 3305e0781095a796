"""Adam's second decay down to 0 and up to 0.99999."""

from __future__ import annotations

from causes import LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    rest = draw.between(1e-5, 1.0)
    if program.settings["kind"] == "sgd":
        return None
    program.settings["betas"] = (0.9, 1 - rest)
    return f"beta2 {1 - rest:.5g}"


OPERATOR = Operator("beta2", mutate, LARGE + SMALL)
