"""A share of the training targets is drawn from the others."""

from __future__ import annotations

import torch
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    share = draw.between(0.01, 1.0)
    count = len(program.train[-1])
    drawn = torch.Generator().manual_seed(draw.random.randrange(10**6))
    wrong = torch.rand(count, generator=drawn) < share
    other = program.train[-1][torch.randperm(count, generator=drawn)]
    program.train[-1][wrong] = other[wrong]
    return f"{share:.0%} of the targets are wrong"


OPERATOR = Operator("label_noise", mutate, ("weight_growth", "no_progress", "stalled"))
