"""A small transformer encoder that names the most frequent symbol, with warmup under AdamW."""

from __future__ import annotations

import torch
from mutant import Recipe, Tensors
from parts import accuracy, cross_entropy
from torch import Tensor, nn


def data() -> tuple[Tensors, Tensors]:
    x = torch.randint(0, 5, (4400, 11), generator=torch.Generator().manual_seed(0))
    y = torch.nn.functional.one_hot(x, 5).sum(1).argmax(1)
    return (x[:4000], y[:4000]), (x[4000:], y[4000:])


class Net(nn.Module):
    """Embeddings, two encoder layers, the mean over the places."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(5, 32), nn.Embedding(11, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.symbols(x) + self.places.weight).mean(1))


RECIPE = Recipe(
    name="transformer_majority",
    net=Net,
    data=data,
    loss=cross_entropy,
    quality=accuracy,
    settings={"kind": "adamw", "lr": 3e-3, "weight_decay": 0.01},
    steps=400,
    schedule=lambda share: min(1.0, share / 0.1 + 0.01),
    trained_inputs=False,
)
