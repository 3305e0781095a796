"""Residual connections around blocks that keep the shape of their input."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from lightning_gradguard.fixes.change import Change, Changes, recorded
from lightning_gradguard.modules.surgery import Block, replace_block, shape_preserving_blocks


class Residual(nn.Module):
    """`x + scale · block(x)`: one path brings the gradient to the block's input unchanged.

    Args:
        block: Any module whose output has the shape of its input.
        scale: Factor of the branch. Default as in He et al. 2016.

    Example:
        >>> import torch
        >>> Residual(nn.Identity(), scale=0.5)(torch.ones(1))
        tensor([1.5000])
    """

    def __init__(self, block: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.block, self.scale = block, scale

    def forward(self, x: Tensor) -> Tensor:
        """The input plus the scaled branch."""
        out: Tensor = x + self.scale * self.block(x)
        return out

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


def add_residual(
    model: nn.Module, example: Any, *, every: int = 2, scale: float = 1.0, blocks: Collection[str] | None = None
) -> Changes:
    """Wraps blocks that keep their input's shape as `x + scale · block(x)`, in place.

    Blocks are found in every `nn.Sequential` (a weight layer and the modules after it) and `nn.ModuleList` (each
    element). The parameters stay the same objects; their names get one level deeper.

    With initial weights that keep the variance, each block doubles it: over L blocks the signal grows as 2^(L/2). With
    a scale of `L**-0.5` it stays bounded.

    Args:
        model: Any module.
        example: What the model is called with, as in `trace`.
        every: Weight layers in one block, at least 1. Default as in He et al. 2016.
        scale: Factor of each branch. Default as in He et al. 2016.
        blocks: Names of modules to wrap instead of searching; each must keep its input's shape.

    Returns:
        One change for each block.

    Raises:
        ValueError: If a named block does not keep the shape, or `every` is below 1.
        NothingToChange: If there is no such block.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 8), *(nn.Linear(8, 8) for _ in range(4)), nn.Linear(8, 1))
        >>> print(*add_residual(net, torch.zeros(1, 2)), sep="; ")
        1: 1, 2 -> x + (1, 2)(x); 3: 3, 4 -> x + (3, 4)(x)

    References:
        He, Zhang, Ren and Sun 2016, arXiv 1512.03385; Zhang, Dauphin and Ma 2019, arXiv 1901.09321 (the variance).
    """
    if every < 1:
        raise ValueError(f"`add_residual(every=...)` must be at least 1, got {every!r}.")
    found = shape_preserving_blocks(model, example, every, blocks, "add_residual")
    found = [block for block in found if not _has_one_already(model, block)]
    changes = []
    for block in found:
        replace_block(model, block, lambda inside: Residual(inside, scale))
        inside = ", ".join(block.members)
        factor = "" if scale == 1.0 else f"{scale:.3g} "
        changes.append(Change(block.name, inside, f"x + {factor}({inside})(x)"))
    return recorded(changes, "add_residual(model)", f"blocks of {every} weight layers that keep the shape")


def _has_one_already(model: nn.Module, block: Block) -> bool:
    kinds = (Residual, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    return any(isinstance(model.get_submodule(block.parent).get_submodule(name), kinds) for name in block.members)
