"""A regression on Friedman's function of ten inputs, SGD with Nesterov's momentum."""

from __future__ import annotations

import math

import torch
from mutant import Recipe, Tensors
from parts import r2, squared_error
from torch import nn


def data() -> tuple[Tensors, Tensors]:
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(2400, 10, generator=generator)
    y = 10 * (math.pi * u[:, 0] * u[:, 1]).sin() + 20 * (u[:, 2] - 0.5) ** 2 + 10 * u[:, 3] + 5 * u[:, 4]
    y = ((y - y.mean()) / y.std())[:, None] + 0.1 * torch.randn(2400, 1, generator=generator)
    x = (u - 0.5) / 0.29
    return (x[:2000], y[:2000]), (x[2000:], y[2000:])


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))


RECIPE = Recipe(
    name="friedman",
    net=net,
    data=data,
    loss=squared_error,
    quality=r2,
    settings={"kind": "sgd", "lr": 0.03, "momentum": 0.9, "nesterov": True},
    steps=300,
    regression=True,
)
