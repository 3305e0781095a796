"""One run as the tab and the report show it: downsampled layers and curves, incidents, and a headline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.show.downsample import (
    auto_depth,
    bin_steps,
    fold_layers,
    inside,
    max_depth,
    rows_of,
    step_slice,
    thin_curve,
)
from lightning_gradguard.show.layer_series import Curve, LayerSeries
from lightning_gradguard.show.run_reader import MALFORMED, RunReader, state_of

DEFAULT_STATISTIC = "grad_norm"


@dataclass(frozen=True)
class FigureQuery:
    """What to show of each run.

    Args:
        statistic: The heatmap's statistic.
        optimizer: Index of the optimizer whose layers are shown; empty if there is only one.
        depth: Number of parts of a layer's name to keep; 0 for every layer, None for as many rows as fit.
        within: Show this module only.
        layer: Also draw the curve of this row, a layer or a module.
        low: First step to show.
        high: Last step to show.
    """

    statistic: str = DEFAULT_STATISTIC
    optimizer: str = ""
    depth: int | None = None
    within: str = ""
    layer: str = ""
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, eq=False)
class RunView:
    """The data that a `FigureQuery` selects from one run.

    Args:
        run: The run's name.
        query: The query, with the chosen depth filled in.
        heatmap: The heatmap's data; None where the run does not have the statistic.
        layer_counts: Number of layers in each row of the heatmap.
        curves: Scalars by name, and the chosen layer as `"layer"`.
        incidents: The optimizer's incidents.
        extent: First and last step of the run.
        max_depth: Largest number of parts in a layer's name.
        steps_per_column: Largest number of steps in one column of the heatmap.
        state: One of `run_reader.OUTCOMES`, or `"malformed"`: its data cannot be read.
        headline: A one-line summary of the run.
        problems: What could not be read, one sentence each.
        row_of: The row of each layer that is shown.
    """

    run: str
    query: FigureQuery
    heatmap: LayerSeries | None
    layer_counts: list[int]
    curves: dict[str, Curve]
    incidents: list[dict[str, Any]]
    extent: tuple[int, int]
    max_depth: int = 1
    steps_per_column: int = 1
    state: str = "healthy"
    headline: str = ""
    problems: list[str] = field(default_factory=list)
    row_of: dict[str, str] = field(default_factory=dict)


def read_view(reader: RunReader, query: FigureQuery) -> RunView:
    """Reads what `query` selects from a run, downsampled."""
    layers = reader.layers(query.statistic, query.optimizer)
    scalars = reader.curves(query.optimizer)
    incidents = [i for i in reader.incidents() if str(i.get("optimizer", "")) == query.optimizer]
    curves = {name: thin_curve(steps, values, query.low, query.high) for name, (steps, values) in scalars.items()}
    extent = full_extent([*(steps for steps, _ in scalars.values()), *([layers.steps] if layers else [])])
    heatmap: LayerSeries | None = None
    layer_counts: list[int] = []
    rows: dict[str, str] = {}
    steps_per_column = 1
    if layers is not None:
        divide = query.depth is None
        if query.depth is None:
            query = replace(query, depth=auto_depth(layers.names, query.within))
        part = step_slice(layers.steps, query.low, query.high)
        zoomed = replace(layers, steps=layers.steps[part], log10=layers.log10[part])
        rows = rows_of(layers.names, query.depth or 0, query.within, divide)
        folded, layer_counts = fold_layers(zoomed, query.statistic, rows)
        heatmap = bin_steps(folded)
        steps_per_column = math.ceil(len(folded.steps) / max(len(heatmap.steps), 1))
        curves |= layer_curve(zoomed, folded, query)
    end = reader.end()
    return RunView(
        reader.run, query, heatmap, layer_counts, curves, incidents, extent,
        max_depth=max_depth(layers.names) if layers else 1, steps_per_column=steps_per_column,
        state=state_of(incidents, end), headline=headline(incidents, end, extent[1]),
        problems=reader.index.problems, row_of=rows,
    )  # fmt: skip


def values_at(reader: RunReader, step: int, query: FigureQuery) -> dict[str, float]:
    """The last value of every curve up to a step, that of the chosen layer as `"layer"`; only those that are finite."""
    curves = reader.curves(query.optimizer)
    layers = reader.layers(query.statistic, query.optimizer) if query.layer else None
    if layers is not None:
        at = int(np.searchsorted(layers.steps, step, side="right")) - 1
        one = replace(layers, steps=layers.steps[at : at + 1], log10=layers.log10[at : at + 1])
        curves = {**curves, **layer_curve(one, one, query)}
    places = {name: int(np.searchsorted(x, step, side="right")) - 1 for name, (x, _) in curves.items()}
    values = {name: float(curves[name][1][at]) for name, at in places.items() if at >= 0}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def malformed_view(run: str, query: FigureQuery, error: Exception) -> RunView:
    """A run that cannot be shown, with the reason."""
    reason = f"The run's data cannot be read ({type(error).__name__}: {error})."
    return RunView(run, query, None, [], {}, [], (0, 1), state=MALFORMED, headline="malformed.", problems=[reason])


def layer_curve(layers: LayerSeries, folded: LayerSeries, query: FigureQuery) -> dict[str, Curve]:
    """The curve of the chosen layer, module or row, NaN where it is not finite; empty if there is none."""
    chosen = [layers.names[i] for i in inside(layers.names, query.layer)] if query.layer else []
    if not chosen and query.layer not in folded.names:
        return {}
    source = folded
    if query.layer not in folded.names:
        source, _ = fold_layers(layers, query.statistic, dict.fromkeys(chosen, query.layer))
    log10 = source.log10[:, source.names.index(query.layer)].astype(np.float64)
    with np.errstate(over="ignore"):
        values = np.where(np.isposinf(log10), np.nan, 10.0**log10)
    return {"layer": thin_curve(source.steps, values, query.low, query.high)}


def full_extent(steps: Sequence[NDArray[np.int64]]) -> tuple[int, int]:
    """First and last of all `steps`."""
    present = [x for x in steps if len(x)]
    return (int(min(x[0] for x in present)), int(max(x[-1] for x in present))) if present else (0, 1)


def headline(incidents: Sequence[dict[str, Any]], end: dict[str, Any] | None, last_step: int) -> str:
    """One line about a run: its length, its incidents, and the actions taken.

    Args:
        incidents: The run's incidents.
        end: How the run ended; None if it has not ended.
        last_step: The last recorded step.

    Example:
        >>> headline([], {"steps": 500}, 499)
        '500 steps, no incidents.'
    """
    length = f"{end['steps']} steps" if end and "steps" in end else f"at step {last_step}, not finished"
    if not incidents:
        return f"{length}, no incidents."
    total = int(end["incidents"]) if end and isinstance(end.get("incidents"), int) else len(incidents)
    kinds = ", ".join(dict.fromkeys(str(i["kind"]) for i in incidents))
    actions = ", ".join(dict.fromkeys(str(a) for i in incidents for a in i.get("actions", [])))
    first = min(i["x"] for i in incidents)
    verdict = f" {end['verdict']}" if end and end.get("verdict") else ""
    plural = "incident" if total == 1 else "incidents"
    return f"{length}, {total} {plural} from step {first}: {kinds}. Actions: {actions or 'none'}.{verdict}"
