"""Reduces a run to what a screen can show: layers folded into modules, steps binned, curves thinned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.show.layer_series import Curve, LayerSeries

#: Most rows before layers are folded into modules, most columns of a heatmap, and most points of a curve: about what
#: a screen can resolve. Fewer than `MIN_ROWS` modules are divided.
MAX_ROWS, MIN_ROWS, MAX_COLUMNS, MAX_POINTS = 120, 12, 600, 1200
#: Most cells of a heatmap: 4 bytes each, in base64, stay below 1 MB.
MAX_CELLS = 90_000
#: Steps that are combined at a time. Measured: 32 to 512 take about 0.6 times as long as all at once.
BLOCK = 256
#: Between the first and the last of the neighbors in one row: `blocks.0 … 7`.
SPAN = " \u2026 "
#: Statistics that are L2 norms, so that a module's value is the L2 norm over its layers. Of others it is the maximum.
NORMS = ("grad_norm", "param_norm")


def max_depth(names: Sequence[str]) -> int:
    """The largest number of dot-separated parts in a layer's name.

    Example:
        >>> max_depth(["encoder.layer.0.q", "head"])
        4
    """
    return max((name.count(".") + 1 for name in names), default=1)


def auto_depth(names: Sequence[str], within: str = "", max_rows: int = MAX_ROWS) -> int:
    """The largest depth that gives at most `max_rows` rows; 0 (every layer its own row) where that is few enough.

    Example:
        >>> auto_depth([f"block.{i}.{part}" for i in range(100) for part in "abc"])
        2
    """
    chosen = [names[i] for i in inside(names, within)]
    if len(chosen) <= max_rows:
        return 0
    depths = range(max_depth(names), 0, -1)
    return next((d for d in depths if len({module_of(name, d, within) for name in chosen}) <= max_rows), 1)


def is_inside(name: str, within: str) -> bool:
    """Whether a layer is the module `within` or lies inside it."""
    return not within or name == within or name.startswith(f"{within}.")


def ends_of(within: str) -> tuple[str, str]:
    """The first and the last of the neighbors in a row; the module twice if it is a single one.

    Example:
        >>> ends_of("net.blocks.0 \u2026 7"), ends_of("net.head")
        (('net.blocks.0', 'net.blocks.7'), ('net.head', 'net.head'))
    """
    first, span, last = within.partition(SPAN)
    parent = first.rpartition(".")[0]
    return first, f"{parent}.{last}".lstrip(".") if span else first


def inside(names: Sequence[str], within: str) -> list[int]:
    """Positions of the layers in a module, or in a row of neighbors."""
    first, last = ends_of(within)
    found = [i for i, name in enumerate(names) if is_inside(name, first) or is_inside(name, last)]
    return list(range(found[0], found[-1] + 1)) if first != last and found else found


def module_of(name: str, depth: int, within: str = "") -> str:
    """The module at `depth` below `within` that contains a layer; the layer itself at depth 0.

    Example:
        >>> module_of("encoder.layer.3.q", 3), module_of("encoder.layer.3.q", 1, within="encoder")
        ('encoder.layer.3', 'encoder.layer')
    """
    above = within if SPAN not in within else within.partition(SPAN)[0].rpartition(".")[0]
    keep = depth + (above.count(".") + 1 if above else 0)
    return ".".join(name.split(".")[:keep]) if depth else name


def rows_of(names: Sequence[str], depth: int, within: str = "", divide: bool = False) -> dict[str, str]:
    """The row of each layer inside `within`.

    Args:
        names: All layers.
        depth: Number of name parts to keep below `within`; 0 keeps every layer.
        within: Show this module, or this row of neighbors, only.
        divide: Whether to show rows of neighbors where there are fewer than `MIN_ROWS` modules, or too many.

    Example:
        >>> names = [f"net.{i}" for i in range(1000)]
        >>> rows = rows_of(names, auto_depth(names), divide=True)
        >>> len(set(rows.values())), rows["net.17"]
        (112, 'net.9 \u2026 17')
    """
    chosen = [names[i] for i in inside(names, within)]
    rows = {name: module_of(name, depth, within) for name in chosen}
    count = len(set(rows.values()))
    if not divide or not depth or MIN_ROWS <= count <= MAX_ROWS:
        return rows
    finer = rows if count > MAX_ROWS else {name: module_of(name, depth + 1, within) for name in chosen}
    rows = dict.fromkeys(rows, within) if count > MAX_ROWS else rows
    parts: dict[str, list[str]] = {}
    for part, row in dict.fromkeys((finer[name], rows[name]) for name in chosen):
        parts.setdefault(row, []).append(part)
    size = -(-sum(map(len, parts.values())) // (MAX_ROWS - len(parts)))
    neighbors = [of[i : i + size] for of in parts.values() for i in range(0, len(of), size)]
    row_of = {part: span_of(those) for those in neighbors for part in those}
    return {name: row_of[finer[name]] for name in chosen}


def span_of(modules: Sequence[str]) -> str:
    """The name of a row of neighbors."""
    return modules[0] + (f"{SPAN}{modules[-1].rpartition('.')[2]}" if len(modules) > 1 else "")


def fold_layers(series: LayerSeries, statistic: str, rows: Mapping[str, str]) -> tuple[LayerSeries, list[int]]:
    """Combines the layers of each row.

    Args:
        series: The layers.
        statistic: Its name, which decides how layers are combined, see `NORMS`.
        rows: The row of each layer that is shown, as `rows_of` returns it.

    Returns:
        The folded series, and the number of layers in each row.

    Example:
        >>> layers = LayerSeries(("a.0", "a.1", "b"), np.arange(1), np.log10(np.float32([[3, 4, 1]])))
        >>> folded, counts = fold_layers(layers, "grad_norm", {"a.0": "a", "a.1": "a", "b": "b"})
        >>> folded.names, counts, (10**folded.log10).round(3).tolist()
        (('a', 'b'), [2, 1], [[5.0, 1.0]])
    """
    chosen = [i for i, name in enumerate(series.names) if name in rows]
    row_of = {name: i for i, name in enumerate(dict.fromkeys(rows[series.names[i]] for i in chosen))}
    if len(row_of) == len(series.names):
        return series, [1] * len(row_of)
    row = np.array([row_of[rows[series.names[i]]] for i in chosen], np.intp)
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=len(row_of))
    columns = np.array(chosen, np.intp)[order]
    first, last = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
    neighbors = bool((np.diff(columns) == 1).all())  # a slice needs no copy
    log10 = series.log10[:, first:last] if neighbors else series.log10[:, columns]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
    combined = combine_columns(log10, starts, counts, statistic in NORMS) if len(row_of) else log10
    return replace(series, names=tuple(row_of), log10=combined), counts.tolist()


def combine_columns(
    log10: NDArray[np.float32], starts: NDArray[np.intp], counts: NDArray[np.intp], norm: bool
) -> NDArray[np.float32]:
    """Combines runs of neighboring columns of `[T, L]` logarithms, by L2 norm or by maximum.

    Args:
        log10: The logarithms, `[T, L]`.
        starts: First column of each run.
        counts: Number of columns of each run.
        norm: Whether to take the L2 norm instead of the maximum.
    """
    if len(log10) > BLOCK:  # in parts that fit into the processor's cache
        blocks = [log10[i : i + BLOCK] for i in range(0, len(log10), BLOCK)]
        return np.concatenate([combine_columns(block, starts, counts, norm) for block in blocks])
    peak: NDArray[np.float32] = np.fmax.reduceat(log10, starts, axis=1)
    if not norm:
        return peak
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = np.exp(np.float32(2 * math.log(10)) * (log10 - np.repeat(peak, counts, axis=1)))
        norms = peak + 0.5 * np.log10(np.add.reduceat(np.nan_to_num(squares, copy=False), starts, axis=1))
    return np.where(np.isfinite(peak), norms, peak).astype(np.float32)


def step_slice(steps: NDArray[np.int64], low: float, high: float) -> slice:
    """The part of ascending `steps` from the last one at or before `low` to the first one at or after `high`."""
    first = max(int(np.searchsorted(steps, low, side="right")) - 1, 0)
    return slice(first, int(np.searchsorted(steps, high, side="left")) + 1)


def bin_steps(series: LayerSeries, max_columns: int = MAX_COLUMNS) -> LayerSeries:
    """Bins the steps into at most `max_columns` columns and `MAX_CELLS` cells, each the maximum over its steps.

    The maximum, because a mean would hide a spike or a NaN of a single step.

    Example:
        >>> series = LayerSeries(("a",), np.arange(6), np.float32([[0], [0], [9], [0], [0], [np.inf]]))
        >>> binned = bin_steps(series, max_columns=3)
        >>> binned.steps.tolist(), binned.log10.ravel().tolist()
        ([0, 2, 4], [0.0, 9.0, inf])
    """
    max_columns = max(1, min(max_columns, MAX_CELLS // max(len(series.names), 1)))
    if len(series.steps) <= max_columns:
        return series
    edges = np.linspace(0, len(series.steps), max_columns, endpoint=False).astype(np.intp)
    return replace(series, steps=series.steps[edges], log10=np.fmax.reduceat(series.log10, edges, axis=0))


def thin_curve(
    x: NDArray[np.int64],
    y: NDArray[np.float64],
    low: float = -math.inf,
    high: float = math.inf,
    max_points: int = MAX_POINTS,
) -> Curve:
    """Reduces a curve between `low` and `high` to about `max_points` points.

    The minimum, the maximum and the first non-finite value of every bin are kept.

    Example:
        >>> x, y = thin_curve(np.arange(1000), np.where(np.arange(1000) == 613, 5.0, 0.0), max_points=30)
        >>> len(x) <= 30, 613 in x
        (True, True)
    """
    part = step_slice(x, low, high)
    x, y = x[part], y[part]
    if len(x) <= max_points:
        return x, y
    per_bin = -(-len(x) // (max_points // 3))
    padded = np.pad(y, (0, -len(y) % per_bin), constant_values=y[-1]).reshape(-1, per_bin)
    finite = np.isfinite(padded)
    smallest = np.where(finite, padded, np.inf).argmin(axis=1)
    largest = np.where(finite, padded, -np.inf).argmax(axis=1)
    inside = np.stack([smallest, largest, finite.argmin(axis=1)], axis=1)  # the last: the first non-finite value
    keep = np.unique(np.minimum(inside + per_bin * np.arange(len(padded))[:, None], len(x) - 1))
    return x[keep], y[keep]


def with_gaps(x: NDArray[np.int64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A step-shaped curve that ends before each step without a value, instead of one step earlier.

    Example:
        >>> x, y = with_gaps(np.arange(4), np.array([1.0, 2.0, np.nan, 4.0]))
        >>> x.tolist(), y.tolist()
        ([0.0, 1.0, 1.49, 2.0, 3.0], [1.0, 2.0, 2.0, nan, 4.0])
    """
    ends = 1 + np.flatnonzero(np.isfinite(y[:-1]) & ~np.isfinite(y[1:]))
    # Just before the middle, so that a rounded step on hover is still the earlier one.
    return np.insert(x.astype(float), ends, x[ends] - 0.51), np.insert(
        np.where(np.isfinite(y), y, np.nan), ends, y[ends - 1]
    )
