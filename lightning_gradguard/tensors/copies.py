"""Copies of many tensors, in memory that is reused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import torch
from torch import Tensor
from torch.optim import Optimizer


def optimizer_params(optimizer: Optimizer) -> list[Tensor]:
    """The optimizer's parameters, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


@torch.no_grad()
def copied(tensors: Sequence[Tensor], reuse: Sequence[Tensor] = (), host: bool = False) -> list[Tensor]:
    """Copies of `tensors`, each in the memory of the tensor of `reuse` at its place where shape and dtype are the same.

    On a CPU fresh memory costs more than the copying: the system provides it page by page. With `host` the copies are
    in host memory, pinned for tensors on a CUDA device; the host does not wait for these, their stream keeps the order.
    """
    copies = [
        old if old is not None and fits(old, new, host) else fresh(new, host)
        for old, new in zip_longest(reuse[: len(tensors)], tensors)
    ]
    if copies:
        torch._foreach_copy_(copies, list(tensors), non_blocking=any(t.is_cuda for t in tensors))
    return copies


def fits(old: Tensor, new: Tensor, host: bool) -> bool:
    """Whether a copy of `new` can live in the memory of `old`."""
    return old.shape == new.shape and old.dtype == new.dtype and (host or old.device == new.device)


def fresh(tensor: Tensor, host: bool) -> Tensor:
    """Memory for a copy."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda) if host else torch.empty_like(tensor)


def chunk_slices(tensors: Sequence[Tensor], most: int = 2**22) -> Iterator[slice]:
    """Slices of so many tensors as hold at most `most` elements, or one tensor, so that what is computed from a slice
    stays small on a CPU; everything at once on another device.

    Example:
        >>> list(chunk_slices([torch.zeros(3), torch.zeros(3), torch.zeros(9), torch.zeros(1)], most=6))
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    start, held = 0, 0
    for i, tensor in enumerate(tensors):
        if i > start and held + tensor.numel() > most and tensor.device.type == "cpu":
            yield slice(start, i)
            start, held = i, 0
        held += tensor.numel()
    if tensors:
        yield slice(start, len(tensors))
