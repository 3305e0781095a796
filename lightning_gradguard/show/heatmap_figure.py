"""The plotly heatmap of layers by step, with a marker for each incident."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lightning_gradguard.show import metadata
from lightning_gradguard.show.run_view import RunView
from lightning_gradguard.show.theme import (
    UNITS,
    Theme,
    robust_range,
    row_labels,
    row_titles,
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
#: Pixels that the label of a row needs.
LABEL_HEIGHT = 12
#: Colors of the scale in each decade: between them plotly interpolates linearly.
COLORS_PER_DECADE = 12
#: Below every float32, and the float32 nearest to infinity.
TINY, HUGE = 1e-46, 3.4e38
#: Values outside the scale: name, test of their logarithm, and color.
SPECIAL = (("zero", np.isneginf, metadata.ZERO_COLOR), ("NaN or inf", np.isposinf, metadata.NONFINITE_COLOR))


def add_heatmap(
    figure: go.Figure, view: RunView, theme: Theme, scale: tuple[float, float], left: int, height: int, symbols: Symbols
) -> None:
    """Draws a run's heatmap and incidents on the axes `x` and `y` of a figure.

    Cells hold plain values, so that hovering shows them. The color scale is logarithmic.

    Args:
        figure: The figure.
        view: The run.
        theme: The colors.
        scale: Log10 at both ends of the color scale.
        left: Margin for the row labels, in pixels.
        height: Height of the heatmap, in pixels.
        symbols: The symbol of each kind of incident.
    """
    if view.heatmap is None or not len(view.heatmap.steps) or not view.heatmap.names:
        figure.update_layout(yaxis={"showticklabels": False, "showgrid": False})
        return
    steps, log10 = view.heatmap.steps, view.heatmap.log10.T
    rows = row_titles(view.heatmap.names, view.layer_counts, view.heatmap.types)
    what, when = statistic_title(view.query.statistic), "step %{x:,d}"
    unit = UNITS.get(view.query.statistic, "value")
    if view.steps_per_column > 1:
        what, when = f"largest {what}", f"{when} and up to {view.steps_per_column - 1} more"
    common = {"x": steps, "y": rows, "hoverongaps": False, "showscale": False}
    figure.add_heatmap(
        **common, z=cell_values(log10), zmin=0, zmax=10 ** scale[1], colorscale=log_colors(scale), name="heatmap",
        hovertemplate=f"%{{y}}<br>{when}<br>{what} %{{z:.4~g}} ({unit})<extra></extra>",
    )  # fmt: skip
    broken = np.isposinf(log10)
    if broken.any():
        columns = np.flatnonzero(broken.any(axis=0))
        part = slice(max(int(columns[0]) - 1, 0), int(columns[-1]) + 2)  # a neighbor on each side: plotly needs widths
        figure.add_heatmap(
            **{**common, "x": steps[part]}, name="NaN or inf",
            z=np.where(broken[:, part], np.float32(1), np.float32(np.nan)),
            colorscale=[metadata.NONFINITE_COLOR] * 2, hovertemplate=f"%{{y}}<br>{when}<br>NaN or inf<extra></extra>",
        )  # fmt: skip
    add_color_bar(figure, view, theme, scale)
    add_markers(figure, view, dict(zip(view.heatmap.names, rows, strict=True)), theme, symbols)
    labels = row_labels(view.heatmap.names, view.layer_counts, left // 7)
    every = -(-len(rows) * LABEL_HEIGHT // max(height, 1))
    figure.update_layout(
        yaxis={
            "type": "category", "range": [len(rows) - 0.5, -0.5], "ticks": "", "showgrid": False,
            "tickvals": rows[::every], "ticktext": labels[::every],
        }
    )  # fmt: skip


def cell_values(log10: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values from their logarithms; NaN where there is none, or none that is finite."""
    with np.errstate(over="ignore", under="ignore"):
        values = np.power(np.float32(10), log10)
    values[np.isposinf(values) & np.isfinite(log10)] = HUGE
    values[(values == 0) & np.isfinite(log10)] = np.float32(1e-45)
    values[~np.isfinite(values)] = np.nan
    return values


def log_colors(scale: tuple[float, float]) -> list[list[Any]]:
    """A color scale from 0 to `10 ** scale[1]` that is logarithmic from `10 ** scale[0]`; 0 itself is gray."""
    count = round(COLORS_PER_DECADE * (scale[1] - scale[0])) + 1
    colors = [f"rgb({r},{g},{b})" for r, g, b in metadata.viridis(np.linspace(0, 1, count)).tolist()]
    places = 10.0 ** (np.linspace(*scale, count) - scale[1])
    nothing = TINY / 10 ** scale[1]
    return [
        [0.0, metadata.ZERO_COLOR], [nothing, metadata.ZERO_COLOR], [1.01 * nothing, colors[0]],
        *map(list, zip(places[:-1].tolist(), colors[:-1], strict=True)), [1.0, colors[-1]],
    ]  # fmt: skip


def add_color_bar(figure: go.Figure, view: RunView, theme: Theme, scale: tuple[float, float]) -> None:
    """A narrow color bar beside the heatmap, labeled in powers of ten."""
    ticks = np.unique(np.round(np.linspace(scale[0], scale[1], 6)).astype(int))
    low, high = figure.layout.yaxis.domain
    bar = {
        "thickness": 10, "len": high - low, "y": high, "yanchor": "top", "x": 1.0, "xpad": 6, "ypad": 0,
        "outlinewidth": 0, "tickvals": ticks, "ticktext": [f"10<sup>{t}</sup>" for t in ticks],
        "tickfont": {"color": theme.muted, "size": 10},
        "title": {"text": UNITS.get(view.query.statistic, ""), "side": "right", "font": {"size": 10}},
    }  # fmt: skip
    shown = {"cmin": scale[0], "cmax": scale[1], "colorscale": list(metadata.VIRIDIS), "colorbar": bar}
    figure.add_scatter(
        x=[None], y=[None], mode="markers", hoverinfo="skip", showlegend=False, name="scale",
        marker={"color": [0.0], **shown},
    )  # fmt: skip


def add_markers(figure: go.Figure, view: RunView, row_of: dict[str, str], theme: Theme, symbols: Symbols) -> None:
    """Marks each incident at its first step: its kind's symbol on the worst layer's row, dots on the other rows."""
    points: list[dict[str, Any]] = []
    for number, incident in enumerate(view.incidents):
        color, text = theme.outcome(incident.get("outcome")), wrap_text(str(incident.get("text", "")))
        for i, row in enumerate(incident_rows(incident, view, row_of)):
            shape = {"symbol": symbols[incident["kind"]][0], "size": 12} if i == 0 else {"symbol": "circle", "size": 5}
            points.append({"x": incident["x"], "y": row, "color": color, "text": text, "number": number, **shape})
    if points:
        columns = {key: [point[key] for point in points] for key in points[0]}
        outline = {"line": {"color": "#ffffff", "width": 1.5}, "opacity": 1}
        figure.add_scatter(
            x=columns["x"], y=columns["y"], mode="markers", name="incidents", hovertext=columns["text"],
            customdata=columns["number"], hoverinfo="text", showlegend=False, cliponaxis=False,
            marker={key: columns[key] for key in ("symbol", "color", "size")} | outline,
        )  # fmt: skip


def incident_rows(incident: dict[str, Any], view: RunView, title_of: dict[str, str]) -> list[str]:
    """The rows that contain an incident's layers, the worst layer's row first."""
    rows = (view.row_of.get(str(layer), str(layer)) for layer in incident.get("layers", [])[:MAX_MARKED_LAYERS])
    return list(dict.fromkeys(title_of[row] for row in rows if row in title_of))


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
