"""A field made small enough to look at: modules folded into one row, steps binned into one column, curves thinned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.show.history import Field

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
#: Rows up to which every layer has its own, columns of a heatmap and points of a curve. Chosen: what a screen can show.
AUTO_ROWS, COLUMNS, POINTS = 120, 600, 1200
#: Statistics whose value for a module is the L2 norm over its layers; the largest layer stands for the others.
NORMS = ("grad_norm", "param_norm")


def depths(names: Sequence[str]) -> int:
    """The most parts that a layer's name has.

    Example:
        >>> depths(["encoder.layer.0.q", "head"])
        4
    """
    return max((name.count(".") + 1 for name in names), default=1)


def auto_depth(names: Sequence[str], within: str = "", most: int = AUTO_ROWS) -> int:
    """The deepest folding that leaves at most `most` rows, 0 if every layer may have its own.

    Example:
        >>> auto_depth([f"block.{i}.{part}" for i in range(100) for part in "abc"])
        2
    """
    inside = [name for name in names if belongs(name, within)]
    if len(inside) <= most:
        return 0
    fits = (d for d in range(depths(names), 0, -1) if len({module(name, d, within) for name in inside}) <= most)
    return next(fits, 1)


def belongs(name: str, within: str) -> bool:
    """Whether a layer lies inside a module, or is it."""
    return not within or name == within or name.startswith(f"{within}.")


def module(name: str, depth: int, within: str = "") -> str:
    """The module at `depth` below `within` that a layer belongs to; the layer itself at depth 0.

    Example:
        >>> module("encoder.layer.3.q", 3), module("encoder.layer.3.q", 1, within="encoder")
        ('encoder.layer.3', 'encoder.layer')
    """
    keep = depth + (within.count(".") + 1 if within else 0)
    return ".".join(name.split(".")[:keep]) if depth else name


def fold(field: Field, statistic: str, depth: int, within: str = "") -> tuple[Field, list[int]]:
    """The layers of each module as one row, and how many layers each row stands for.

    Args:
        field: The layers.
        statistic: Decides how layers combine, see `NORMS`.
        depth: Parts of the name to keep below `within`; 0 keeps every layer.
        within: Show this module only.

    Example:
        >>> layers = Field(("a.0", "a.1", "b"), np.arange(1), np.log10(np.float32([[3, 4, 1]])))
        >>> folded, counts = fold(layers, "grad_norm", depth=1)
        >>> folded.names, counts, (10**folded.log).round(3).tolist()
        (('a', 'b'), [2, 1], [[5.0, 1.0]])
    """
    chosen = [i for i, name in enumerate(field.names) if belongs(name, within)]
    owners = [module(field.names[i], depth, within) for i in chosen]
    names = tuple(dict.fromkeys(owners))
    if len(names) == len(field.names):
        return field, [1] * len(names)
    place = {name: i for i, name in enumerate(names)}
    row = np.array([place[owner] for owner in owners], np.intp)
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=len(names))
    log = field.log[:, np.array(chosen, np.intp)[order]]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
    combined = combine(log, starts, counts, statistic in NORMS) if len(names) else log
    return replace(field, names=names, log=combined), counts.tolist()


def combine(
    log: NDArray[np.float32], starts: NDArray[np.intp], counts: NDArray[np.intp], norm: bool
) -> NDArray[np.float32]:
    """Neighbouring columns of logarithms `[T, L]` as one: the norm of both, or the larger."""
    peak: NDArray[np.float32] = np.fmax.reduceat(log, starts, axis=1)
    if not norm:
        return peak
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = np.power(10.0, 2 * (log - np.repeat(peak, counts, axis=1)))
        norms = peak + 0.5 * np.log10(np.add.reduceat(np.nan_to_num(squares), starts, axis=1))
    return np.where(np.isfinite(peak), norms, peak).astype(np.float32)


def between(x: NDArray[np.int64], low: float, high: float) -> slice:
    """The part of rising `x` from the last step at or before `low` to the first at or after `high`."""
    first = max(int(np.searchsorted(x, low, side="right")) - 1, 0)
    return slice(first, int(np.searchsorted(x, high, side="left")) + 1)


def binned(field: Field, columns: int = COLUMNS) -> Field:
    """The steps in at most `columns` columns, each the largest of its steps.

    The largest, so that a spike of a single step, or one NaN, is never averaged away.

    Example:
        >>> steps = Field(("a",), np.arange(6), np.float32([[0], [0], [9], [0], [0], [np.inf]]))
        >>> few = binned(steps, columns=3)
        >>> few.x.tolist(), few.log.ravel().tolist()
        ([0, 2, 4], [0.0, 9.0, inf])
    """
    if len(field.x) <= columns:
        return field
    edges = np.linspace(0, len(field.x), columns, endpoint=False).astype(np.intp)
    return replace(field, x=field.x[edges], log=np.fmax.reduceat(field.log, edges, axis=0))


def thin(
    x: NDArray[np.int64],
    y: NDArray[np.float64],
    low: float = -math.inf,
    high: float = math.inf,
    points: int = POINTS,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A curve from `low` to `high` in about `points` points that keep each bin's smallest, largest and any gap.

    Example:
        >>> x, y = thin(np.arange(1000), np.where(np.arange(1000) == 613, 5.0, 0.0), points=30)
        >>> len(x) <= 30, 613 in x
        (True, True)
    """
    part = between(x, low, high)
    x, y = x[part], y[part]
    if len(x) <= points:
        return x, y
    per_bin = -(-len(x) // (points // 3))
    padded = np.pad(y, (0, -len(y) % per_bin), constant_values=y[-1]).reshape(-1, per_bin)
    finite = np.isfinite(padded)
    least = np.where(finite, padded, np.inf).argmin(axis=1)
    most = np.where(finite, padded, -np.inf).argmax(axis=1)
    inside = np.stack([least, most, finite.argmin(axis=1)], axis=1)  # the last: where a gap begins
    keep = np.unique(np.minimum(inside + per_bin * np.arange(len(padded))[:, None], len(x) - 1))
    return x[keep], y[keep]
