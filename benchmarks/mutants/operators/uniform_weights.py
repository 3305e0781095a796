"""Weights from 0 to a number up to 10, none below 0."""

from __future__ import annotations

import torch
from causes import INIT
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    high = draw.between(1e-2, 10.0)
    for layer in program.layers:
        torch.nn.init.uniform_(layer.weight, 0.0, high)
    return f"weights from 0 to {high:.3g}"


OPERATOR = Operator("uniform_weights", mutate, INIT)
