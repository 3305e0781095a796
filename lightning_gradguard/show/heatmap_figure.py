"""The heatmap of layers by step, with the incidents on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lightning_gradguard.show import downsample as fields
from lightning_gradguard.show import metadata
from lightning_gradguard.show.run_view import RunView
from lightning_gradguard.show.theme import Theme, bulk, label, row_labels, shared_prefix, statistic_words, wrapped

Symbols = dict[str, tuple[str, str]]
#: Layers marked for one incident. Chosen.
MARKED = 64
#: The colour scale spans at least this many decades, so that a healthy run's noise does not look like drama. Chosen.
MIN_DECADES = 4.0
#: What has no logarithm, in a colour outside the scale: name, where it is, colour.
SPECIAL = (("zero", np.isneginf, metadata.ZERO_COLOR), ("NaN or inf", np.isposinf, metadata.NONFINITE_COLOR))


def add_heatmap(
    figure: go.Figure, view: RunView, theme: Theme, scale: tuple[float, float], characters: int, symbols: Symbols
) -> None:
    """Draws a view's field and incidents into the first row.

    Args:
        figure: Where to.
        view: What.
        theme: The colours.
        scale: Log10 at both ends of the colour scale.
        characters: Room for a row's label.
        symbols: Of the kinds of incidents.
    """
    if view.heat is None or not len(view.heat.x) or not view.heat.names:
        return
    labels, z = row_labels(view.heat.names, view.counts, characters), view.heat.log.T
    hover = f"%{{y}}<br>step %{{x}}<br>{statistic_words(view.question.statistic)} 10^%{{z:.2f}}<extra></extra>"
    figure.add_heatmap(
        x=view.heat.x, y=labels, z=np.where(np.isfinite(z), z, np.nan), zmin=scale[0], zmax=scale[1], name="field",
        colorscale=list(metadata.VIRIDIS), hovertemplate=hover, colorbar=color_bar(figure, theme, scale), row=1, col=1,
    )  # fmt: skip
    for name, test, color in SPECIAL:
        if test(z).any():
            figure.add_heatmap(
                x=view.heat.x, y=labels, z=np.where(test(z), np.float32(1), np.float32(np.nan)), name=name,
                colorscale=[color, color], showscale=False,
                hovertemplate=f"%{{y}}<br>step %{{x}}<br>{name}<extra></extra>", row=1, col=1,
            )  # fmt: skip
    add_markers(figure, view, dict(zip(view.heat.names, labels, strict=True)), theme, symbols)
    figure.update_yaxes(range=[len(labels) - 0.5, -0.5], type="category", ticks="", showgrid=False, row=1, col=1)


def color_bar(figure: go.Figure, theme: Theme, scale: tuple[float, float]) -> dict[str, Any]:
    """A slim bar in powers of ten beside the heatmap."""
    ticks = np.unique(np.round(np.linspace(scale[0], scale[1], 6)).astype(int))
    share = figure.layout.yaxis.domain[1] - figure.layout.yaxis.domain[0]
    return {
        "thickness": 10, "len": share, "y": 1, "yanchor": "top", "x": 1.0, "xpad": 6, "ypad": 0, "outlinewidth": 0,
        "tickvals": ticks, "ticktext": [f"10<sup>{t}</sup>" for t in ticks],
        "tickfont": {"color": theme.muted, "size": 10},
    }  # fmt: skip


def add_markers(figure: go.Figure, view: RunView, row_of: dict[str, str], theme: Theme, symbols: Symbols) -> None:
    """Each incident at its step, on the rows of its layers: its kind's symbol on the first, dots on the others."""
    points: list[dict[str, Any]] = []
    for incident in view.incidents:
        for i, row in enumerate(incident_rows(incident, view, row_of)):
            look = {"symbol": symbols[incident["kind"]][0], "size": 12} if i == 0 else {"symbol": "circle", "size": 5}
            words = {"color": theme.outcome(incident.get("outcome")), "text": wrapped(str(incident.get("text", "")))}
            points.append({"x": incident["x"], "y": row, **look, **words})
    if points:
        columns = {key: [point[key] for point in points] for key in points[0]}
        outline = {"line": {"color": "#ffffff", "width": 1.5}, "opacity": 1}
        figure.add_scatter(
            x=columns["x"], y=columns["y"], mode="markers", name="incidents", hovertext=columns["text"],
            hoverinfo="text", showlegend=False, cliponaxis=False, row=1, col=1,
            marker={key: columns[key] for key in ("symbol", "color", "size")} | outline,
        )  # fmt: skip


def incident_rows(incident: dict[str, Any], view: RunView, row_of: dict[str, str]) -> list[str]:
    """The rows that hold an incident's layers, the worst layer's first."""
    depth, within = view.question.depth or 0, view.question.within
    modules = (fields.module(str(layer), depth, within) for layer in incident.get("layers", [])[:MARKED])
    return list(dict.fromkeys(row_of[name] for name in modules if name in row_of))


def heat_title(view: RunView) -> str:
    """What the heatmap shows, which way is up, and what its special colours mean."""
    words = statistic_words(view.question.statistic)
    if view.heat is None or not len(view.heat.x):
        return f"<b>{words}</b>: not recorded in this run"
    module = shared_prefix(view.heat.names).rstrip(".")
    where = f" in {label(module, 30)}" if module else ""
    row = "layer" if max(view.counts, default=1) == 1 else "module"
    parts = [f"<b>{words} per {row}{where}</b>, input at the top"]
    parts += [f"each column the largest of up to {view.binned} steps"] if view.binned > 1 else []
    for name, test, color in SPECIAL:
        parts += [f'<span style="color:{color}">\u25a0</span> {name}'] if test(view.heat.log).any() else []
    return "; ".join(parts)


def color_range(views: Sequence[RunView]) -> tuple[float, float]:
    """Ends of the colour scale shared by all runs."""
    finite = [v.heat.log[np.isfinite(v.heat.log)] for v in views if v.heat is not None]
    low, high = bulk(np.concatenate([*finite, np.zeros(0)]), least=MIN_DECADES / 2) or (0.0, 0.0)
    spare = max(0.0, MIN_DECADES - (high - low)) / 2
    return low - spare, high + spare
