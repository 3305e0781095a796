"""Adam's first decay up to 0.9999."""

from __future__ import annotations

from causes import LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    rest = draw.between(1e-4, 1.0)
    if program.settings["kind"] == "sgd":
        return None
    program.settings["betas"] = (1 - rest, 0.999)
    return f"beta1 {1 - rest:.4g}"


OPERATOR = Operator("beta1", mutate, ("momentum_too_large", *LARGE, *SMALL))
