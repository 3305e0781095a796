"""COLLECT: which samples of the dataset a batch is made of, by following what the loader's sampler yields.

The indices are drawn in the main process, in the order of the batches, also where workers load the samples ahead. The
sampler draws what it would have drawn, at the same moments.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

#: Batches whose indices are kept beside those that workers load ahead: micro-batches of a step. Chosen.
KEPT = 64


class FollowedSampler:
    """Yields what another sampler yields, and remembers the last batches of each pass.

    Args:
        sampler: A batch sampler, or a sampler of a loader without batches. Everything else is asked of it.
        kept: Number of batches that are remembered.

    Example:
        >>> batches = iter(FollowedSampler([[3, 1], [2, 0]], kept=2))
        >>> next(batches), next(batches), batches.indices(0), batches.indices(1), batches.indices(2)
        ([3, 1], [2, 0], (3, 1), (2, 0), ())
    """

    def __init__(self, sampler: Any, kept: int) -> None:
        self._followed, self._kept = sampler, kept

    @property
    def followed(self) -> Any:
        """The sampler that is followed."""
        return self._followed

    def __iter__(self) -> FollowedPass:
        return FollowedPass(iter(self._followed), self._kept)

    def __len__(self) -> int:
        return len(self._followed)

    def __getattr__(self, name: str) -> Any:
        if name == "_followed":  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self._followed, name)


class FollowedPass:
    """One pass over a sampler."""

    def __init__(self, batches: Iterator[Any], kept: int) -> None:
        self._batches, self._count = batches, 0
        self._last: deque[Any] = deque(maxlen=kept)

    def __iter__(self) -> FollowedPass:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        self._last.append(batch)
        self._count += 1
        return batch

    def indices(self, position: int) -> tuple[int, ...]:
        """Indices of the batch at a position of the pass; empty where they are not known, or no whole numbers."""
        back = self._count - position
        if not 0 < back <= len(self._last):
            return ()
        batch = self._last[-back]
        try:
            return tuple(map(operator.index, batch if isinstance(batch, (list, tuple)) else [batch]))
        except TypeError:
            return ()


def follow_loader(loader: Any) -> None:
    """Follows the sampler of a torch DataLoader that hands its batches out in order; others are left alone."""
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return
    name, ahead = sampler_name(loader), loader.num_workers * (loader.prefetch_factor or 0)
    if getattr(loader, "in_order", True) and not isinstance(getattr(loader, name), FollowedSampler):
        # The loader only refuses another sampler: this one is the same.
        object.__setattr__(loader, name, FollowedSampler(getattr(loader, name), ahead + KEPT))


def leave_loader(loader: Any) -> None:
    """Gives a loader its own sampler back."""
    sampler = getattr(loader, sampler_name(loader), None) if isinstance(loader, DataLoader) else None
    if isinstance(sampler, FollowedSampler):
        object.__setattr__(loader, sampler_name(loader), sampler.followed)


def sampler_name(loader: DataLoader[Any]) -> str:
    """The attribute whose values are the batches' indices."""
    return "sampler" if loader.batch_sampler is None else "batch_sampler"


def dataset_indices(batches: Any, position: int) -> tuple[int, ...]:
    """Dataset indices of the samples in a batch; empty when they are not known.

    Args:
        batches: The DataLoader's iterator.
        position: The batch's place in the pass, counted from 0.

    Example:
        >>> loader = DataLoader(range(10), batch_size=4)
        >>> follow_loader(loader)
        >>> batches = iter(loader)
        >>> next(batches).tolist(), dataset_indices(batches, 0)
        ([0, 1, 2, 3], (0, 1, 2, 3))
    """
    followed = getattr(batches, "_sampler_iter", None)
    return followed.indices(position) if isinstance(followed, FollowedPass) else ()
