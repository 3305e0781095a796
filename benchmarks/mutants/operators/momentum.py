"""Another momentum, up to 0.9999."""

from __future__ import annotations

from causes import LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    rest = draw.between(1e-4, 1.0)
    if program.settings["kind"] != "sgd":
        return None
    program.settings.update(momentum=1 - rest, nesterov=False)
    return f"momentum {1 - rest:.4g}"


OPERATOR = Operator("momentum", mutate, ("momentum_too_large", *LARGE, *SMALL))
