"""Up to 30 more layers like one that is there."""

from __future__ import annotations

from causes import INIT
from edits import first_linear
from mutant import Draw, Operator, Program
from torch import nn


def mutate(program: Program, draw: Draw) -> str | None:
    layer = first_linear(program.net)
    if layer is None:
        return None
    count, at = round(draw.between(1, 30)), list(program.net).index(layer)
    activation = program.net[at + 1]
    more = [m for _ in range(count) for m in (nn.Linear(layer.in_features, layer.out_features), type(activation)())]
    program.net = nn.Sequential(*program.net[: at + 2], *more, *program.net[at + 2 :])
    return f"{count} more layers"


OPERATOR = Operator("deeper", mutate, INIT)
