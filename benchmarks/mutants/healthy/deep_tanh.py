"""Eight tanh layers with Glorot's weights under Adam."""

from __future__ import annotations

from mutant import Recipe
from parts import accuracy, copied, cross_entropy, digits
from torch import nn


def net() -> nn.Module:
    layers = [nn.Linear(64, 48), *(nn.Linear(48, 48) for _ in range(7)), nn.Linear(48, 10)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, gain=1.2)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*(m for layer in layers[:-1] for m in (layer, nn.Tanh())), layers[-1])


RECIPE = Recipe(
    name="deep_tanh",
    net=net,
    data=lambda: copied(digits()),
    loss=cross_entropy,
    quality=accuracy,
    settings={"kind": "adam", "lr": 1e-3},
    steps=300,
)
