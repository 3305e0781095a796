"""A residual net with LayerNorm on rings in the plane, under AdamW."""

from __future__ import annotations

import torch
from mutant import Recipe, Tensors
from parts import accuracy, cross_entropy
from torch import Tensor, nn


def data() -> tuple[Tensors, Tensors]:
    generator = torch.Generator().manual_seed(0)
    radius, angle = 3 * torch.rand(2400, generator=generator), 6.2832 * torch.rand(2400, generator=generator)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    y = radius.long()
    return (x[:2000], y[:2000]), (x[2000:], y[2000:])


class Block(nn.Module):
    """A residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 32), *(Block() for _ in range(4)), nn.LayerNorm(32), nn.Linear(32, 3))


RECIPE = Recipe(
    name="residual_rings",
    net=net,
    data=data,
    loss=cross_entropy,
    quality=accuracy,
    settings={"kind": "adamw", "lr": 3e-3, "weight_decay": 0.01},
    steps=240,
    batch_size=64,
)
