"""Noise of up to ten times their size on all weights at one step."""

from __future__ import annotations

from typing import Any

import torch
from chaos_faults import Fault
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    size, step = draw.between(0.01, 10), draw.step(program)

    def hit(module: Any, step: int) -> None:
        for p in module.parameters():
            p.add_(size * p.abs().mean() * torch.randn_like(p))

    program.fault = Fault([step], state=hit)
    return f"noise of {size:.3g} on the weights at step {step}"


OPERATOR = Operator(
    "weights_noise", mutate, ("damaged_weights", "loss_spike", "exploding", "loss_increase", "diverging"), sudden=True
)
