"""A ReLU net under SGD with momentum."""

from __future__ import annotations

from mutant import Recipe
from parts import accuracy, copied, cross_entropy, digits
from torch import nn


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


RECIPE = Recipe(
    name="digits_mlp",
    net=net,
    data=lambda: copied(digits()),
    loss=cross_entropy,
    quality=accuracy,
    settings={"kind": "sgd", "lr": 0.05, "momentum": 0.9},
)
