"""An autoencoder of digits with a bottleneck of 16, under Adam."""

from __future__ import annotations

from mutant import Recipe, Tensors
from parts import copied, digits, r2, squared_error
from torch import nn


def data() -> tuple[Tensors, Tensors]:
    (x, _), (held_out, _) = copied(digits())
    return (x, x.clone()), (held_out, held_out.clone())


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16), nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 64)
    )


RECIPE = Recipe(
    name="autoencoder",
    net=net,
    data=data,
    loss=squared_error,
    quality=r2,
    settings={"kind": "adam", "lr": 2e-3},
    steps=300,
    regression=True,
)
