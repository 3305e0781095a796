"""One run as the tab shows it: a folded and binned field, thinned curves, incidents, and its story in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.show import downsample as fields
from lightning_gradguard.show.downsample import Curve
from lightning_gradguard.show.history import Field, History, outcome

DEFAULT_STATISTIC = "grad_norm"


@dataclass(frozen=True)
class FigureQuery:
    """What to show, the same for every run.

    Args:
        statistic: The heatmap's statistic.
        optimizer: Whose layers, by index; empty when there is one.
        depth: Parts of a layer's name to keep; 0 for every layer, None for as many as fit.
        within: Show this module only.
        layer: Draw this row's curve.
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
    """One run's answer to a `FigureQuery`.

    Args:
        run: The run's name.
        question: What was asked, with the depth that was chosen.
        heat: What the heatmap shows; None where the run has no such statistic.
        counts: How many layers each row stands for.
        curves: Scalars by name, and the chosen layer under `"layer"`.
        incidents: The optimizer's incidents.
        extent: First and last step of the run.
        max_depth: The most parts that a layer's name has.
        binned: Most steps that share one column.
        state: `"healthy"`, `"resolved"`, `"open"` or `"unrecoverable"`.
        headline: The run in one sentence.
        problems: What could not be read.
    """

    run: str
    question: FigureQuery
    heat: Field | None
    counts: list[int]
    curves: dict[str, Curve]
    incidents: list[dict[str, Any]]
    extent: tuple[int, int]
    max_depth: int = 1
    binned: int = 1
    state: str = "healthy"
    headline: str = ""
    problems: list[str] = field(default_factory=list)


def read_view(history: History, question: FigureQuery) -> RunView:
    """Reads what `question` needs from a run, and makes it small enough to draw."""
    whole = history.field(question.statistic, question.optimizer)
    x, scalars = history.curves(question.optimizer)
    incidents = [i for i in history.incidents() if str(i.get("optimizer", "")) == question.optimizer]
    curves = {name: fields.thin(x, y, question.low, question.high) for name, y in scalars.items()}
    extent = full_extent([x, *([whole.x] if whole else [])])
    shown: Field | None = None
    counts: list[int] = []
    binned = 1
    if whole is not None:
        if question.depth is None:
            question = replace(question, depth=fields.auto_depth(whole.names, question.within))
        part = fields.between(whole.x, question.low, question.high)
        inside = replace(whole, x=whole.x[part], log=whole.log[part])
        folded, counts = fields.fold(inside, question.statistic, question.depth or 0, question.within)
        shown = fields.binned(folded)
        binned = math.ceil(len(folded.x) / max(len(shown.x), 1))
        curves |= layer_curve(inside, folded, question)
    return RunView(
        history.run, question, shown, counts, curves, incidents, extent,
        max_depth=fields.depths(whole.names) if whole else 1, binned=binned, state=outcome(incidents),
        headline=headline(incidents, history.end(), extent[1]), problems=history.index.problems,
    )  # fmt: skip


def layer_curve(whole: Field, folded: Field, question: FigureQuery) -> dict[str, Curve]:
    """The chosen row's curve, a layer's or a module's; gaps where it is not finite."""
    source = folded if question.layer in folded.names else whole
    if question.layer not in source.names:
        return {}
    log = source.log[:, source.names.index(question.layer)].astype(np.float64)
    with np.errstate(over="ignore"):
        values = np.where(np.isposinf(log), np.nan, 10.0**log)
    return {"layer": fields.thin(source.x, values, question.low, question.high)}


def full_extent(steps: Sequence[NDArray[np.int64]]) -> tuple[int, int]:
    """First and last of all `steps`."""
    present = [x for x in steps if len(x)]
    return (int(min(x[0] for x in present)), int(max(x[-1] for x in present))) if present else (0, 1)


def headline(incidents: Sequence[dict[str, Any]], end: dict[str, Any] | None, last_step: int) -> str:
    """What happened, in one line: how far the run got, how many incidents, of which kinds, and what was done.

    Example:
        >>> headline([], {"steps": 500}, 499)
        '500 steps, no incident.'
    """
    length = f"{end['steps']} steps" if end and "steps" in end else f"at step {last_step}, not ended"
    if not incidents:
        return f"{length}, no incident."
    total = int(end["incidents"]) if end and isinstance(end.get("incidents"), int) else len(incidents)
    kinds = ", ".join(dict.fromkeys(str(i["kind"]) for i in incidents))
    actions = ", ".join(dict.fromkeys(str(a) for i in incidents for a in i.get("actions", [])))
    first = min(i["x"] for i in incidents)
    verdict = f" {end['verdict']}" if end and end.get("verdict") else ""
    plural = "incident" if total == 1 else "incidents"
    return f"{length}, {total} {plural} from step {first}: {kinds}. Done: {actions or 'nothing'}.{verdict}"
