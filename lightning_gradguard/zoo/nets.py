"""Networks that several cases use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers, with an activation after each but the last.

    Example:
        >>> mlp([64, 32, 10], nn.ReLU)
        Sequential(
          (0): Linear(in_features=64, out_features=32, bias=True)
          (1): ReLU()
          (2): Linear(in_features=32, out_features=10, bias=True)
        )
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


class LastStep(nn.Module):
    """A recurrent layer and a linear head on its last output.

    Args:
        rnn: The recurrent layer, `batch_first`.
        classes: Number of outputs.
    """

    def __init__(self, rnn: nn.RNNBase, classes: int) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(rnn.hidden_size, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[batch, time, features]` to `[batch, classes]`."""
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def seed_torch(seed: int) -> torch.Generator:
    """Seeds torch's global generator, which initializes new layers, and returns a separate generator for the data."""
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
