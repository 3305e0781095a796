"""An LSTM that names the first symbol of a sequence, under Adam."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mutant import Recipe, Tensors
from parts import accuracy, cross_entropy
from torch import Tensor, nn


def data() -> tuple[Tensors, Tensors]:
    x = torch.randint(0, 4, (2400, 6), generator=torch.Generator().manual_seed(0))
    return (x[:2000], x[:2000, 0]), (x[2000:], x[2000:, 0])


class Net(nn.Module):
    """One-hot symbols, an LSTM, a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(F.one_hot(x, 4).to(self.head.weight.dtype))[0][:, -1])


RECIPE = Recipe(
    name="lstm_recall",
    net=Net,
    data=data,
    loss=cross_entropy,
    quality=accuracy,
    settings={"kind": "adam", "lr": 1e-2},
    steps=400,
    trained_inputs=False,
)
