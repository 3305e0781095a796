"""Adam's epsilon up to 100."""

from __future__ import annotations

from causes import SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    eps = draw.between(1e-8, 100.0)
    if program.settings["kind"] == "sgd":
        return None
    program.settings["eps"] = eps
    return f"eps {eps:.3g}"


OPERATOR = Operator("eps", mutate, ("eps_too_large", *SMALL))
