"""Tensors that are sharded over processes: the piece that this process holds."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate


def whole_sums(tensor: Tensor) -> Tensor:
    """A `DTensor` with pending partial sums made (the gradient of a norm's weight under sequence parallelism)."""
    if isinstance(tensor, DTensor) and any(isinstance(place, Partial) for place in tensor.placements):
        return tensor.redistribute(placements=[Replicate() if isinstance(p, Partial) else p for p in tensor.placements])
    return tensor


def local(tensor: Tensor) -> Tensor:
    """The piece of `tensor` that this process holds, as a plain tensor that shares its memory."""
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def like(piece: Tensor, whole: Tensor) -> Tensor:
    """A local piece on the device of `whole`, and with its placement if the shapes agree.

    Example:
        >>> like(torch.ones(2), torch.zeros(2, dtype=torch.float64))
        tensor([1., 1.])
    """
    piece = piece.to(whole.device)
    if not isinstance(whole, DTensor) or piece.shape != local(whole).shape:
        return piece
    return DTensor.from_local(
        piece, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )
