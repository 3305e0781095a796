"""Changes of nets that operators share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mutant import LAYERS
from torch import nn

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.SiLU, nn.GELU, nn.Sigmoid, nn.SELU, nn.ELU, nn.LeakyReLU)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def replace_all(net: nn.Module, kinds: tuple[type[nn.Module], ...], make: Callable[[], nn.Module]) -> int:
    """Puts another module in the place of every one of some kinds; how many there were."""
    found = [
        (parent, name) for parent in net.modules() for name, child in parent.named_children() if type(child) in kinds
    ]
    for parent, name in found:
        setattr(parent, name, make())
    return len(found)


@torch.no_grad()
def fill(layer: nn.Module, factor: float) -> None:
    """Multiplies a layer's weight."""
    layer.weight.mul_(factor)  # type: ignore[operator, union-attr]


def first_linear(net: nn.Module) -> nn.Module | None:
    """The first square linear layer of a plain `nn.Sequential`."""
    if type(net) is not nn.Sequential:
        return None
    return next((m for m in net if isinstance(m, nn.Linear) and m.in_features == m.out_features), None)


__all__ = ["ACTIVATIONS", "LAYERS", "NORMS", "fill", "first_linear", "replace_all"]
