"""All biases the same number up to 100, either sign."""

from __future__ import annotations

import torch
from causes import INIT
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    value = draw.between(1e-2, 100.0) * draw.random.choice((-1, 1))
    layers = [layer for layer in program.layers if getattr(layer, "bias", None) is not None]
    for layer in layers:
        torch.nn.init.constant_(layer.bias, value)
    return f"biases = {value:.3g}" if layers else None


OPERATOR = Operator("biases", mutate, INIT)
