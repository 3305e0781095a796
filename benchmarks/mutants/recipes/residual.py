"""A residual network with layer normalization on two spirals under AdamW and a cosine schedule."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from mutants.datasets import split
from mutants.recipes import Recipe
from mutants.setups import Data, Module, cross_entropy

STEPS = 400


class Block(nn.Module):
    """Adds what two layers make of a normalized input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.act = nn.LayerNorm(width), nn.ReLU()
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.act(self.inner(self.norm(x))))


def make() -> Module:
    net = nn.Sequential(nn.Linear(2, 32), *(Block(32) for _ in range(5)), nn.LayerNorm(32), nn.Linear(32, 2))
    module = Module(net, cross_entropy, AdamW, lr=4e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01)
    module.schedule = lambda step: 0.5 + 0.5 * math.cos(math.pi * min(step, STEPS) / STEPS)
    return module


@cache
def data() -> Data:
    random = torch.Generator().manual_seed(1)
    y = torch.randint(2, (2000,), generator=random)
    turn = 0.3 + 2.7 * torch.rand(2000, generator=random)
    angle = math.pi * (1.5 * turn / 1.5 + y)
    x = turn[:, None] / 1.5 * torch.stack([angle.cos(), angle.sin()], 1)
    return split(x + 0.03 * torch.randn(2000, 2, generator=random), y, tested=500)


RECIPE = Recipe("residual", make, data, steps=STEPS, size=64)
