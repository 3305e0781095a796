"""COLLECT: sizes of a batch's samples, measured only on suspicious steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_gradguard.tensors.shards import local

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BatchStats:
    """Statistics of the samples of one batch.

    Args:
        size: Largest absolute value of each sample over that of the median sample, the maximum over the batch's float
            tensors, `[N]`; NaN or inf where the sample contains one. Empty when the batch is no longer in memory.
        indices: Index of each sample in the dataset, also where the batch is no longer in memory; empty when unknown.
        micro_batch: Index of the micro-batch that the losses point to; -1 when they point to none.
        micro_batches: Number of micro-batches in the step.
        process: Rank of the process that trained on the batch; -1 in a run of one process.
    """

    size: Floats = field(default_factory=lambda: np.empty(0))
    indices: tuple[int, ...] = ()
    micro_batch: int = -1
    micro_batches: int = 1
    process: int = -1

    @property
    def is_finite(self) -> bool:
        """Whether no sample contains NaN or Inf, as far as they are known."""
        return bool(np.isfinite(self.size).all())


@torch.no_grad()
def sample_sizes(batch: Any) -> Floats:
    """Relative size of every sample of a batch (see `BatchStats.size`), `[N]`.

    N is the most common first dimension of the batch's tensors, which may be nested in dicts, lists and tuples.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [1.0, torch.nan], [3.0, -4e4], [2.0, 1.0]])
        >>> sample_sizes({"x": x, "y": torch.tensor([0, 1, 0, 1])}).tolist()
        [1.0, nan, 20000.0, 1.0]
    """
    leaves = (local(t) for t in tree_leaves(batch) if isinstance(t, Tensor))
    tensors = [t for t in leaves if t.ndim and t.layout == torch.strided]
    if not tensors:
        return np.empty(0)
    count = Counter(len(t) for t in tensors).most_common(1)[0][0]
    worst = np.ones(count)
    for t in tensors:
        if not t.is_floating_point() or len(t) != count or not t.numel():
            continue
        wide = t.detach().to(torch.promote_types(t.dtype, torch.float32) if t.element_size() > 1 else torch.float32)
        peaks = wide.reshape(count, -1).abs().amax(1).double().cpu().numpy()
        finite = peaks[np.isfinite(peaks)]
        usual = float(np.sort(finite)[(len(finite) - 1) // 2]) if len(finite) else 0.0
        scaled = peaks / usual if usual > 0 else np.where(np.isfinite(peaks), 1.0, peaks)
        worst = np.maximum(worst, scaled)  # keeps NaN
    return worst


def find_bad_micro_batch(losses: Sequence[float]) -> int:
    """Index of the micro-batch whose loss is not finite or more than ten times every other one; -1 if there is none.

    Example:
        >>> [find_bad_micro_batch(losses) for losses in ([0.5, math.nan, 0.4], [0.5, 0.6, 900.0], [0.5, 0.6, 0.7])]
        [1, 2, -1]
    """
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            return i
    sizes = [abs(loss) for loss in losses]
    worst = max(range(len(sizes)), key=sizes.__getitem__)
    others = [size for i, size in enumerate(sizes) if i != worst]
    return worst if others and sizes[worst] > 10 * max(others) else -1


def worst_of(batches: Iterable[BatchStats | None]) -> BatchStats | None:
    """The batch with the worst sample out of one from each process, in the order of ranks.

    Example:
        >>> worst_of([None, BatchStats(np.array([1.0, 9.0])), BatchStats(np.array([1.0, np.nan]))]).process
        2
    """
    known = [replace(batch, process=rank) for rank, batch in enumerate(batches) if batch is not None]
    badness = [math.inf if not np.isfinite(batch.size).all() else batch.size.max(initial=0.0) for batch in known]
    return known[int(np.argmax(badness))] if known else None
