"""A language model of bytes: a GRU on Python's documentation, under Adam."""

from __future__ import annotations

from mutant import Recipe, Tensors
from parts import next_byte, saved_bits, windows
from torch import Tensor, nn


def data() -> tuple[Tensors, Tensors]:
    train, held_out = windows(2400, 33, 0.0, 0.9, 0), windows(200, 33, 0.9, 1.0, 1)
    return (train[:, :-1], train[:, 1:]), (held_out[:, :-1], held_out[:, 1:])


class Net(nn.Module):
    """Embeddings, a GRU, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.rnn, self.head = nn.Embedding(128, 32), nn.GRU(32, 64, batch_first=True), nn.Linear(64, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.bytes(x))[0])


RECIPE = Recipe(
    name="byte_gru",
    net=Net,
    data=data,
    loss=next_byte,
    quality=saved_bits,
    settings={"kind": "adam", "lr": 1e-2},
    steps=240,
    batch_size=24,
    trained_inputs=False,
)
