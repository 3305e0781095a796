"""Draws runs with plotly: the heatmap of layers by step, and below it, on the same step axis, panels of curves.

Only this module and `heatmap_figure` import plotly, which takes long: import them when a figure is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lightning_gradguard.show.heatmap_figure import add_heatmap, color_range, heatmap_title
from lightning_gradguard.show.run_view import RunView, malformed_view
from lightning_gradguard.show.theme import (
    DARK,
    LIGHT,
    Theme,
    kind_symbols,
    robust_range,
    short_label,
    statistic_title,
)

#: Incidents whose start is drawn as a line through all panels: more lines would hide the curves.
MAX_INCIDENT_LINES = 60
#: plotly's dashes, as text for the titles.
DASHES = {"solid": "\u2014", "dash": "- -", "dot": "\u00b7\u00b7\u00b7"}


@dataclass(frozen=True)
class Panel:
    """A panel of curves below the heatmap.

    Args:
        title: What it shows.
        curves: For each curve its name, its label in the title, and its dash.
        log: Whether the value axis is logarithmic.
        include: Values that are always inside the axis limits, so that a nearly constant curve looks constant.
    """

    title: str
    curves: tuple[tuple[str, str, str], ...]
    log: bool = False
    include: tuple[float, ...] = ()


NORM = (
    ("grad_norm", "unclipped", "solid"), ("grad_norm_clipped", "clipped", "dot"),
    ("grad_norm_limit", "limit", "dash"),
)  # fmt: skip
FACTORS = (("clip_coefficient", "clip coefficient", "solid"), ("lr_factor", "LR factor", "dash"))
PANELS = (
    Panel("global gradient norm", NORM, log=True),
    Panel("loss", (("loss", "", "solid"),)),
    Panel("multipliers", FACTORS, include=(0, 1)),
    Panel("effective learning rate", (("lr", "", "solid"),), include=(0,)),
    Panel("depth slope, decades per layer", (("depth_slope", "", "solid"),), include=(-0.1, 0.1)),
)


@dataclass(frozen=True)
class FigureLayout:
    """What the figures of all runs have in common, so that they can be compared.

    Args:
        theme: The colors.
        width: Width of each figure, in pixels.
        height: Height of each figure, in pixels.
        panels: The panels below the heatmap, each with the limits of its value axis.
        color_range: Log10 at both ends of the color scale.
        step_range: Limits of the step axis.
        symbols: The symbol of each kind of incident.
    """

    theme: Theme
    width: int
    height: int
    panels: list[tuple[Panel, list[float]]]
    color_range: tuple[float, float]
    step_range: list[float]
    symbols: dict[str, tuple[str, str]]

    @property
    def left(self) -> int:
        """Left margin for the row labels, in pixels."""
        return int(min(max(0.16 * self.width, 80), 190))


def draw_figures(
    views: Sequence[RunView], *, dark: bool = False, width: int = 960, height: int = 720
) -> list[go.Figure]:
    """Draws one figure for each run, with common panels, axes and color scale.

    Args:
        views: The runs, all read with the same query.
        dark: Whether the page is dark.
        width: Width of each figure, in pixels.
        height: Height of each figure, in pixels.
    """
    limits = [(panel, value_range(panel, views)) for panel in (*layer_panels(views), *PANELS)]
    panels = [(panel, span) for panel, span in limits if span is not None]
    symbols = kind_symbols(incident["kind"] for view in views for incident in view.incidents)
    theme = DARK if dark else LIGHT
    layout = FigureLayout(theme, width, height, panels, color_range(views), step_range(views), symbols)
    return [draw_figure(view, layout) for view in views]


def draw_safely(views: Sequence[RunView], **style: Any) -> tuple[list[RunView], list[go.Figure]]:
    """The same; a run that cannot be drawn is replaced by an empty one that tells the reason.

    Args:
        views: The runs.
        style: Theme and size.

    Returns:
        The runs that are drawn, and their figures.
    """
    try:
        return list(views), draw_figures(views, **style)
    except Exception:
        views = [drawable(view, style) for view in views]
        return views, draw_figures(views, **style)


def drawable(view: RunView, style: dict[str, Any]) -> RunView:
    """The run if it can be drawn, otherwise an empty one."""
    try:
        draw_figures([view], **style)
        return view
    except Exception as error:
        return malformed_view(view.run, view.query, error)


def draw_figure(view: RunView, layout: FigureLayout) -> go.Figure:
    """Draws the figure of one run."""
    rows = 1 + len(layout.panels)
    heights = [3.4, *(1.0 for _ in layout.panels)]
    figure = make_subplots(rows, 1, shared_xaxes=True, row_heights=heights, vertical_spacing=22 / layout.height)
    style_axes(figure, layout)
    add_heatmap(figure, view, layout.theme, layout.color_range, layout.left // 7, layout.symbols)
    for row, (panel, span) in enumerate(layout.panels, start=2):
        add_panel(figure, view, panel, row, span, layout.theme)
    add_incident_lines(figure, view.incidents, layout.theme)
    panel_titles = (panel_title(panel, layout.theme) for panel, _ in layout.panels)
    add_titles(figure, [heatmap_title(view, layout.width // 6), *panel_titles], layout)  # about 6 pixels a character
    return figure


def style_axes(figure: go.Figure, layout: FigureLayout) -> None:
    """Sets axes, margins and colors."""
    theme = layout.theme
    figure.update_xaxes(
        range=layout.step_range, gridcolor=theme.grid, zeroline=False, tickformat=",d", showspikes=True,
        spikemode="across", spikethickness=1, spikecolor=theme.muted, spikedash="solid", spikesnap="cursor", ticks="",
    )  # fmt: skip
    figure.update_xaxes(title={"text": "step", "standoff": 2}, row=1 + len(layout.panels), col=1)
    figure.update_yaxes(gridcolor=theme.grid, zeroline=False, tickfont={"size": 10}, fixedrange=True)
    figure.update_layout(
        width=layout.width, height=layout.height, margin={"l": layout.left, "r": 52, "t": 20, "b": 36},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", template=None, hovermode="closest",
        font={"color": theme.text, "size": 11, "family": "Roboto, system-ui, sans-serif"}, dragmode="zoom",
    )  # fmt: skip


def add_panel(figure: go.Figure, view: RunView, panel: Panel, row: int, span: list[float], theme: Theme) -> None:
    """Draws the curves of one panel."""
    for (name, title, dash), color in zip(panel.curves, theme.series, strict=False):
        x, y = view.curves.get(name, (np.zeros(0, np.int64), np.zeros(0)))
        figure.add_scatter(
            x=x, y=np.where(np.isfinite(y), y, np.nan), mode="lines", name=title or panel.title, showlegend=False,
            line={"color": color, "width": 1.5, "dash": dash}, hovertemplate="step %{x}: %{y:.4g}", row=row, col=1,
        )  # fmt: skip
    decades: dict[str, Any] = {
        "type": "log",
        "exponentformat": "power",
        "dtick": max(1, round((span[1] - span[0]) / 3)),
    }
    figure.update_yaxes(**(decades if panel.log else {"nticks": 4}), range=span, row=row, col=1)


def add_incident_lines(figure: go.Figure, incidents: Sequence[dict[str, Any]], theme: Theme) -> None:
    """Draws a line through all panels at the start of each incident, and shades the steps that it lasted."""
    across, shaded = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1}, -math.inf
    for incident in incidents[:MAX_INCIDENT_LINES]:
        color, first = theme.outcome(incident.get("outcome")), incident["x"]
        figure.add_shape(type="line", x0=first, x1=first, line={"color": color, "width": 1, "dash": "dot"}, **across)
        last, first = max(first, incident.get("x_last") or first), max(first, shaded)
        shaded = max(shaded, last)
        if last <= first:
            continue  # a single step, or shaded already
        figure.add_shape(
            type="rect", x0=first, x1=last, fillcolor=color, opacity=0.10, line={"width": 0}, layer="below", **across
        )


def add_titles(figure: go.Figure, titles: Sequence[str], layout: FigureLayout) -> None:
    """Writes a title above the heatmap and each panel, at the left edge of the figure."""
    font = {"size": 11 if layout.width >= 400 else 10, "color": layout.theme.muted}
    for i, title in enumerate(titles):
        axis = figure.layout["yaxis" if i == 0 else f"yaxis{i + 1}"]
        figure.add_annotation(
            text=title, xref="paper", yref="paper", x=0, y=axis.domain[1], xanchor="left", yanchor="bottom",
            xshift=4 - layout.left, showarrow=False, font=font, align="left", borderpad=0, bgcolor=layout.theme.paper,
        )  # fmt: skip


def panel_title(panel: Panel, theme: Theme) -> str:
    """The panel's title, with the label of each curve in its color and dash."""
    labels = (
        f'   <span style="color:{color}">{DASHES[dash]} {title}</span>'
        for (_, title, dash), color in zip(panel.curves, theme.series, strict=False)
        if title
    )
    return f"<b>{panel.title}</b>" + "".join(labels)


def layer_panels(views: Sequence[RunView]) -> list[Panel]:
    """The panel of the chosen layer, where any run has it."""
    query = views[0].query
    title = f"{statistic_title(query.statistic)} of {short_label(query.layer, 60)}"
    return [Panel(title, (("layer", "", "solid"),), log=True)] if any("layer" in v.curves for v in views) else []


def step_range(views: Sequence[RunView]) -> list[float]:
    """Limits of the common step axis: as queried, by default all steps of every run."""
    query = views[0].query
    low = query.low if math.isfinite(query.low) else min(v.extent[0] for v in views)
    high = query.high if math.isfinite(query.high) else max(v.extent[1] for v in views)
    return [low, max(high, low + 1)]


def value_range(panel: Panel, views: Sequence[RunView]) -> list[float] | None:
    """Limits of a panel's value axis over all runs, as log10 on a log axis; None if there is nothing to draw."""
    curves = [v.curves[name][1] for v in views for name, _, _ in panel.curves if name in v.curves]
    values = np.concatenate([*curves, np.zeros(0)])
    values = values[np.isfinite(values)]
    span = robust_range(np.log10(values[values > 0]) if panel.log else values)
    if span is None:
        return None
    low, high = min(span[0], *panel.include, math.inf), max(span[1], *panel.include, -math.inf)
    pad = max(0.08 * (high - low), 0.2 if panel.log else 0.02 * max(abs(low), abs(high)), 1e-12)
    return [low - pad, high + pad]
