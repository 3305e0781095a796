"""Networks, losses and optimizers that the recipes share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer


def mlp(*sizes: int, act: type[nn.Module] = nn.ReLU, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with an activation between them."""
    net = nn.Sequential()
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        net.append(nn.Linear(inputs, outputs))
        if i < len(sizes) - 2:
            net.extend([*([nn.BatchNorm1d(outputs)] if norm else []), act()])
            net.extend([nn.Dropout(dropout)] if dropout else [])
    return net


def he(net: nn.Module, gain: float = 2**0.5) -> nn.Module:
    """He initialization of every weight matrix and filter; zero biases."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=gain / fan_in**0.5)
            nn.init.zeros_(layer.bias) if layer.bias is not None else None
    return net


def cnn(norm: bool = True, dropout: float = 0.0) -> nn.Module:
    """Two convolutions and a linear layer for 8x8 images."""

    def stage(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        filters: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, stride, padding=1)]
        return [*filters, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU(), nn.Dropout(dropout)]

    return he(nn.Sequential(*stage(1, 12, 1), *stage(12, 24, 2), nn.Flatten(), nn.Linear(384, 10)))


class Recurrent(nn.Module):
    """A recurrent network with a linear layer on its last state."""

    def __init__(self, cell: type[nn.RNNBase], inputs: int, hidden: int, outputs: int, **options: Any) -> None:
        super().__init__()
        self.cell, self.head = cell(inputs, hidden, batch_first=True, **options), nn.Linear(hidden, outputs)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Transformer(nn.Module):
    """Two encoder layers over tokens with learned positions."""

    def __init__(self, symbols: int, length: int, width: int = 32, norm_first: bool = True) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(symbols, width), nn.Parameter(torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens) + self.position))


def classify(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(net(x), y)


def predict(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of every token."""
    return F.cross_entropy(net(x).flatten(0, 1), y.flatten())


def regress(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(net(x), y)


def sgd(lr: float, momentum: float = 0.0, **options: Any) -> Callable[[Any], Optimizer]:
    """Stochastic gradient descent."""
    return partial(SGD, lr=lr, momentum=momentum, **options)


def adam(lr: float, **options: Any) -> Callable[[Any], Optimizer]:
    """Adam."""
    return partial(Adam, lr=lr, **options)
