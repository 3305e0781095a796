"""Ratings as products of embeddings, under Adam."""

from __future__ import annotations

import torch
from mutant import Recipe, Tensors
from parts import r2, squared_error
from torch import Tensor, nn


def data() -> tuple[Tensors, Tensors]:
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(60, 4, generator=generator), torch.randn(50, 4, generator=generator)
    pairs = torch.stack([torch.randint(0, 60, (4000,), generator=generator),
                         torch.randint(0, 50, (4000,), generator=generator)], 1)  # fmt: skip
    y = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(1)
    y = y / y.std() + 0.1 * torch.randn(4000, generator=generator)
    return (pairs[:3600], y[:3600]), (pairs[3600:], y[3600:])


class Net(nn.Module):
    """Two embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(60, 8), nn.Embedding(50, 8)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.users(x[:, 0]) * self.items(x[:, 1])).sum(1)


RECIPE = Recipe(
    name="factorization",
    net=Net,
    data=data,
    loss=squared_error,
    quality=r2,
    settings={"kind": "adam", "lr": 2e-2},
    steps=400,
    batch_size=64,
    trained_inputs=False,
    regression=True,
)
