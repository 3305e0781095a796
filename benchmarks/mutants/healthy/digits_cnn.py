"""A convolutional net with BatchNorm, SGD with momentum and a cosine schedule."""

from __future__ import annotations

import math

from mutant import Recipe
from parts import accuracy, copied, cross_entropy, digits
from torch import nn


def net() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24 * 16, 10),
    )  # fmt: skip


RECIPE = Recipe(
    name="digits_cnn",
    net=net,
    data=lambda: copied(digits()),
    loss=cross_entropy,
    quality=accuracy,
    settings={"kind": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4},
    steps=180,
    schedule=lambda share: 0.5 + 0.5 * math.cos(math.pi * share),
)
