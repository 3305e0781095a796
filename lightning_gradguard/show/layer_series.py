"""One statistic of a run's layers over its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

#: Steps `[T]`, ascending, and values `[T]`.
Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class LayerSeries:
    """One statistic of one optimizer's layers over the steps.

    Args:
        names: The layers, `[L]`, in the order of registration.
        steps: Steps, `[T]`, ascending.
        log10: Log10 of the statistic, `[T, L]` float32. NaN means "not recorded", inf means "NaN or inf", and -inf
            means "zero".
        types: Class names of layers and modules by path, as far as they were recorded.
    """

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    log10: NDArray[np.float32]
    types: Mapping[str, str] = field(default_factory=dict)

    def after(self, step: int) -> LayerSeries:
        """The part after a step."""
        first = int(np.searchsorted(self.steps, step, side="right"))
        return replace(self, steps=self.steps[first:], log10=self.log10[first:])


def merge_series(parts: Sequence[LayerSeries]) -> LayerSeries | None:
    """Merges series with different layers: the layers of the latest one first, then those that it no longer has.

    Where two have a value for the same layer and step, that of the series that goes on longer counts, or of the later
    one among `parts`.
    """
    parts = [part for part in parts if len(part.steps)]
    if len(parts) <= 1:
        return parts[0] if parts else None
    earliest_first = sorted(parts, key=lambda part: part.steps[-1])
    names = tuple(dict.fromkeys(name for part in reversed(earliest_first) for name in part.names))
    steps = np.unique(np.concatenate([part.steps for part in parts]))
    log10 = np.full((len(steps), len(names)), np.nan, np.float32)
    column = {name: i for i, name in enumerate(names)}
    for part in earliest_first:
        columns = np.array([column[name] for name in part.names], np.intp)
        log10[np.ix_(np.searchsorted(steps, part.steps), columns)] = part.log10
    types = {path: name for part in earliest_first for path, name in part.types.items()}
    return LayerSeries(names, steps, log10, types)
