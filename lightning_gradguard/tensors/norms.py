"""L2 norms of many tensors in one pass and one transfer to the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

#: On a CPU, from this many tensors on, those with at most this many elements are read together. Chosen.
MANY, SMALL = 256, 1024
NONE = np.zeros(0, np.bool_)


def read_norms(tensors: Sequence[Tensor | None], extra: Sequence[Tensor] = ()) -> tuple[Floats, Floats]:
    """L2 norms of `tensors` and the values of the 0-d tensors `extra`, in one pass and one transfer to the host.

    A norm that overflows fp32 while its tensor is finite comes out right, so that inf or NaN in the result means
    inf or NaN in the tensor.

    Args:
        tensors: Gradients, parameters or buffers of any float dtype and layout; None counts as zero.
        extra: Scalars for the same transfer, e.g. the losses.

    Returns:
        Norms `[T]` and extra values `[E]`, float64.

    Example:
        >>> read_norms([torch.full((4,), 2.0**100), None, torch.tensor([3.0, 4.0])])[0]
        array([2.5353012e+30, 0.0000000e+00, 5.0000000e+00])
    """
    present = [t for t in tensors if t is not None]
    swarm, shared = norms_of_many(present)
    rest = present if shared is None else list(compress(present, ~swarm))
    column = [*norms_of(rest), *(value.reshape(()) for value in extra)]
    read = to_host(column)
    sound = shared is None and math.isfinite(sum(read[: len(rest)]))
    norms, values = np.array(read[: len(rest)]), np.array(read[len(rest) :])
    if shared is not None:
        one_by_one, norms = norms, np.empty(len(present))
        norms[~swarm], norms[swarm] = one_by_one, shared
    if not sound:
        for i in np.flatnonzero(~np.isfinite(norms)):
            norms[i] = unbounded_norm(present[i])
    if len(present) == len(tensors):
        return norms, values
    full = np.zeros(len(tensors))
    full[[i for i, t in enumerate(tensors) if t is not None]] = norms
    return full, values


def to_host(scalars: Sequence[Tensor]) -> list[float]:
    """The values of 0-d tensors: one by one on a CPU, otherwise `in_one_transfer`."""
    return [value.item() for value in scalars] if not scalars or scalars[0].is_cpu else in_one_transfer(scalars)


def in_one_transfer(scalars: Sequence[Tensor]) -> list[float]:
    """The values of 0-d tensors, stacked on the first one's device."""
    device, dtype = scalars[0].device, scalars[0].dtype
    return torch.stack([value.to(device, dtype) for value in scalars]).tolist()


def norms_of_many(tensors: Sequence[Tensor]) -> tuple[NDArray[np.bool_], Floats | None]:
    """Which of `tensors` are small, and their L2 norms from one copy of them in float64; None where that is not faster.

    With very many small tensors, call overhead dominates.
    """
    if len(tensors) < MANY or not tensors[0].is_cpu:
        return NONE, None
    sizes = np.array([t.numel() for t in tensors])
    small = (sizes > 0) & (sizes <= SMALL)
    chosen = list(compress(tensors, small))
    try:
        flat = torch._utils._flatten_dense_tensors(chosen) if len(chosen) >= MANY else None
    except (RuntimeError, TypeError, NotImplementedError):  # sparse layout, mixed devices
        return NONE, None
    if flat is None or flat.is_complex():
        return NONE, None
    values = flat.detach().to(torch.float64).numpy()
    ends = np.cumsum(sizes[small])
    return small, np.sqrt(np.add.reduceat(values * values, [0, *ends[:-1]]))


@torch.no_grad()
def foreach_norm(tensors: list[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """L2 norm of each tensor as one vector `[T]`, in fp32 or better (or `dtype`), on the first tensor's device."""
    return torch.stack(norms_of(tensors, dtype)) if tensors else torch.zeros(0)


def norms_of(tensors: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """L2 norm of each tensor, 0-d, all of one type on the first tensor's device."""
    if not tensors:
        return []
    try:
        return list(torch._foreach_norm(tensors, 2, dtype=dtype or wide_dtype(tensors[0].dtype)))
    except (RuntimeError, TypeError, NotImplementedError):  # sparse or complex layout, mixed devices or precisions
        device = tensors[0].device
        norms = [torch.linalg.vector_norm(v, dtype=dtype or wide_dtype(v.dtype)) for v in map(real_values, tensors)]
        return [n.to(device, torch.promote_types(n.dtype, norms[0].dtype)) for n in norms]


def real_values(tensor: Tensor) -> Tensor:
    """The stored numbers of a sparse or complex tensor as a dense real one."""
    dense = tensor.coalesce().values() if tensor.is_sparse else tensor
    return torch.view_as_real(dense) if dense.is_complex() else dense


@torch.no_grad()
def unbounded_norm(tensor: Tensor) -> float:
    """L2 norm as a host float even where fp32 would overflow; inf or NaN only if the tensor holds one."""
    values = real_values(tensor)
    peak = float(torch.linalg.vector_norm(values, math.inf, dtype=wide_dtype(values.dtype)))
    if not math.isfinite(peak) or peak == 0.0:
        return peak
    return peak * float(torch.linalg.vector_norm(values.to(wide_dtype(values.dtype)) / peak))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to measure in: float64 for float64 and complex128, float32 for everything else."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
