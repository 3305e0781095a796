"""One layer whose weights are all the same."""

from __future__ import annotations

import torch
from causes import INIT
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    value = draw.between(1e-3, 1.0)
    torch.nn.init.constant_(draw.layer(program).weight, value)
    return f"one layer = {value:.3g}"


OPERATOR = Operator("constant_layer", mutate, INIT)
