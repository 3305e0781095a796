"""The plotly heatmap of layers by step, with a marker for each incident."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lightning_gradguard.show import metadata
from lightning_gradguard.show.downsample import module_of
from lightning_gradguard.show.run_view import RunView
from lightning_gradguard.show.theme import (
    Theme,
    robust_range,
    row_labels,
    shared_prefix,
    short_label,
    statistic_title,
    wrap_text,
)

Symbols = dict[str, tuple[str, str]]
#: Layers marked for one incident: more would cover the heatmap.
MAX_MARKED_LAYERS = 64
#: Least span of the color scale, in decades, so that the noise of a healthy run does not fill it.
MIN_DECADES = 4.0
#: Values that have no logarithm: name, test, and a color outside the scale.
SPECIAL = (("zero", np.isneginf, metadata.ZERO_COLOR), ("NaN or inf", np.isposinf, metadata.NONFINITE_COLOR))


def add_heatmap(
    figure: go.Figure, view: RunView, theme: Theme, scale: tuple[float, float], label_length: int, symbols: Symbols
) -> None:
    """Draws a run's heatmap and incidents into the first row of a figure.

    Args:
        figure: The figure.
        view: The run.
        theme: The colors.
        scale: Log10 at both ends of the color scale.
        label_length: Most characters of a row label.
        symbols: The symbol of each kind of incident.
    """
    if view.heatmap is None or not len(view.heatmap.steps) or not view.heatmap.names:
        return
    steps, z = view.heatmap.steps, view.heatmap.log10.T
    labels = row_labels(view.heatmap.names, view.layer_counts, label_length)
    hover = f"%{{y}}<br>step %{{x}}<br>{statistic_title(view.query.statistic)} 10^%{{z:.2f}}<extra></extra>"
    figure.add_heatmap(
        x=steps, y=labels, z=np.where(np.isfinite(z), z, np.nan), zmin=scale[0], zmax=scale[1], name="heatmap",
        colorscale=list(metadata.VIRIDIS), hovertemplate=hover, colorbar=color_bar(figure, theme, scale), row=1, col=1,
    )  # fmt: skip
    for name, test, color in SPECIAL:
        if test(z).any():
            figure.add_heatmap(
                x=steps, y=labels, z=np.where(test(z), np.float32(1), np.float32(np.nan)), name=name,
                colorscale=[color, color], showscale=False,
                hovertemplate=f"%{{y}}<br>step %{{x}}<br>{name}<extra></extra>", row=1, col=1,
            )  # fmt: skip
    add_markers(figure, view, dict(zip(view.heatmap.names, labels, strict=True)), theme, symbols)
    figure.update_yaxes(range=[len(labels) - 0.5, -0.5], type="category", ticks="", showgrid=False, row=1, col=1)


def color_bar(figure: go.Figure, theme: Theme, scale: tuple[float, float]) -> dict[str, Any]:
    """A narrow color bar beside the heatmap, labeled in powers of ten."""
    ticks = np.unique(np.round(np.linspace(scale[0], scale[1], 6)).astype(int))
    length = figure.layout.yaxis.domain[1] - figure.layout.yaxis.domain[0]
    return {
        "thickness": 10, "len": length, "y": 1, "yanchor": "top", "x": 1.0, "xpad": 6, "ypad": 0, "outlinewidth": 0,
        "tickvals": ticks, "ticktext": [f"10<sup>{t}</sup>" for t in ticks],
        "tickfont": {"color": theme.muted, "size": 10},
    }  # fmt: skip


def add_markers(figure: go.Figure, view: RunView, row_of: dict[str, str], theme: Theme, symbols: Symbols) -> None:
    """Marks each incident at its first step: its kind's symbol on the worst layer's row, dots on the other rows."""
    points: list[dict[str, Any]] = []
    for incident in view.incidents:
        color, text = theme.outcome(incident.get("outcome")), wrap_text(str(incident.get("text", "")))
        for i, row in enumerate(incident_rows(incident, view, row_of)):
            shape = {"symbol": symbols[incident["kind"]][0], "size": 12} if i == 0 else {"symbol": "circle", "size": 5}
            points.append({"x": incident["x"], "y": row, "color": color, "text": text, **shape})
    if points:
        columns = {key: [point[key] for point in points] for key in points[0]}
        outline = {"line": {"color": "#ffffff", "width": 1.5}, "opacity": 1}
        figure.add_scatter(
            x=columns["x"], y=columns["y"], mode="markers", name="incidents", hovertext=columns["text"],
            hoverinfo="text", showlegend=False, cliponaxis=False, row=1, col=1,
            marker={key: columns[key] for key in ("symbol", "color", "size")} | outline,
        )  # fmt: skip


def incident_rows(incident: dict[str, Any], view: RunView, row_of: dict[str, str]) -> list[str]:
    """The rows that contain an incident's layers, the worst layer's row first."""
    depth, within = view.query.depth or 0, view.query.within
    modules = (module_of(str(layer), depth, within) for layer in incident.get("layers", [])[:MAX_MARKED_LAYERS])
    return list(dict.fromkeys(row_of[name] for name in modules if name in row_of))


def heatmap_title(view: RunView, max_length: int) -> str:
    """What the heatmap shows, then as many explanations as fit into `max_length` characters."""
    title = statistic_title(view.query.statistic)
    if view.heatmap is None or not len(view.heatmap.steps):
        return f"<b>{title}</b>: not recorded in this run"
    module = shared_prefix(view.heatmap.names).rstrip(".")
    title += " per " + ("layer" if max(view.layer_counts, default=1) == 1 else "module")
    title += f" in {short_label(module, 30)}" if module else ""
    text, length = f"<b>{title}</b>", len(title)
    notes = [(f"\u25a0 {name}", color) for name, test, color in SPECIAL if test(view.heatmap.log10).any()]
    notes += [("input at the top", "")]
    notes += [(f"columns: maximum over {view.steps_per_column} steps", "")] if view.steps_per_column > 1 else []
    for note, color in notes:
        length += 2 + len(note)
        if length <= max_length:
            text += "; " + (f'<span style="color:{color}">{note}</span>' if color else note)
    return text


def color_range(views: Sequence[RunView]) -> tuple[float, float]:
    """Log10 at both ends of the common color scale."""
    finite = [v.heatmap.log10[np.isfinite(v.heatmap.log10)] for v in views if v.heatmap is not None]
    low, high = robust_range(np.concatenate([*finite, np.zeros(0)]), least=MIN_DECADES / 2) or (0.0, 0.0)
    spare = max(0.0, MIN_DECADES - (high - low)) / 2
    return low - spare, high + spare
