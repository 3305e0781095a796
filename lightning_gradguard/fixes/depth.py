"""Reducing depth by removing blocks that keep the shape of their input."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_gradguard.fixes.change import Change, Changes, recorded
from lightning_gradguard.modules.surgery import remove_block, shape_preserving_blocks


def remove_layers(model: nn.Module, example: Any, keep: int) -> Changes:
    """Removes blocks that keep their input's shape, so that `keep` of them remain, evenly spread over depth.

    The other layers keep their names and parameters: a removed block becomes `nn.Identity`, except in an
    `nn.ModuleList`, which gets shorter. Layers that change the shape always remain.

    Args:
        model: Any module with layers in `nn.Sequential` or `nn.ModuleList` containers.
        example: What the model is called with, as in `trace`.
        keep: How many of the blocks remain, at least 0.

    Returns:
        One change for each removed block.

    Raises:
        ValueError: If `keep` is negative.
        NothingToChange: If there are no more than `keep` such blocks.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 8), *(nn.Linear(8, 8) for _ in range(4)), nn.Linear(8, 1))
        >>> print(*remove_layers(net, torch.zeros(1, 2), keep=2), sep="; ")
        1: 1 -> removed; 3: 3 -> removed
    """
    if keep < 0:
        raise ValueError(f"`remove_layers(keep=...)` must not be negative, got {keep!r}.")
    blocks = shape_preserving_blocks(model, example)
    kept = {round((i + 1) * len(blocks) / keep) - 1 for i in range(keep)} if keep else set()
    changes: list[Change] = []
    for position, block in reversed(list(enumerate(blocks))):  # from the end, because a ModuleList is renumbered
        if position not in kept:
            remove_block(model, block)
            changes.insert(0, Change(block.name, ", ".join(block.members), "removed"))
    return recorded(changes, f"remove_layers(model, keep={keep})", f"more than {keep} blocks that keep the shape")
