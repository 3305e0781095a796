"""Data, losses and measures that recipes share."""

from __future__ import annotations

import math
from functools import cache
from pydoc_data.topics import topics
from typing import Any

import torch
import torch.nn.functional as F
from mutant import Tensors
from sklearn.datasets import load_digits
from torch import Tensor, nn


@cache
def digits() -> tuple[Tensors, Tensors]:
    """Handwritten digits, 8 x 8, from 0 to 1: 1,437 for training, 360 held out."""
    data: Any = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return (x[order[:1437]], y[order[:1437]]), (x[order[1437:]], y[order[1437:]])


def copied(data: tuple[Tensors, Tensors]) -> tuple[Tensors, Tensors]:
    """The same tensors, free to be changed."""
    train, held_out = (tuple(t.clone() for t in part) for part in data)
    return train, held_out


@cache
def text() -> Tensor:
    """Bytes of Python's documentation."""
    everything = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
    return torch.frombuffer(bytearray(everything), dtype=torch.uint8).long()


def windows(count: int, length: int, low: float, high: float, seed: int) -> Tensor:
    """Windows of the text from a share of it, `[count, length]`."""
    numbers = text()
    first, last = int(low * len(numbers)), int(high * len(numbers)) - length
    at = torch.randint(first, last, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([numbers[i : i + length] for i in at.tolist()])


def cross_entropy(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def squared_error(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(net(x), y)


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers beyond that of the most frequent class."""
    output = net(x)
    right, chance = float((output.argmax(1) == y).float().mean()), float(y.bincount().max()) / len(y)
    return max(0.0, (right - chance) / (1 - chance)) if bool(torch.isfinite(output).all()) else 0.0


def r2(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Explained share of the variance."""
    return max(0.0, 1 - float(F.mse_loss(net(x), y) / y.var(unbiased=False)))


def next_byte(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x).flatten(0, 1), y.flatten())


def saved_bits(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of the bits per byte that are saved, of those that the frequencies of the bytes leave."""
    frequent = -float((p := y.flatten().bincount(minlength=128) / y.numel())[p > 0].log().mul(p[p > 0]).sum())
    loss = float(next_byte(net, x, y))
    return max(0.0, 1 - loss / frequent) if math.isfinite(loss) else 0.0
