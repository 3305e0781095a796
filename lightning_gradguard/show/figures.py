"""Draws views with plotly: the heatmap of layers by step, and under it on the same axis what the run did.

`plotly` is imported here and in `heatmap_figure` only, so import this module late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lightning_gradguard.show.heatmap_figure import add_heatmap, color_range, heat_title
from lightning_gradguard.show.run_view import RunView
from lightning_gradguard.show.theme import DARK, LIGHT, Theme, bulk, kind_symbols, label, statistic_words

#: Incidents whose start is drawn as a line through all panels. Chosen.
LINES = 60
DASHES = {"solid": "\u2014", "dash": "- -", "dot": "\u00b7\u00b7\u00b7"}


@dataclass(frozen=True)
class Panel:
    """A strip of curves under the heatmap.

    Args:
        title: What it shows.
        curves: Name of each curve, its word in the title, and its dash.
        log: Whether the axis is logarithmic.
        always: Values that the axis always takes in, so that a constant is not drawn as drama.
    """

    title: str
    curves: tuple[tuple[str, str, str], ...]
    log: bool = False
    always: tuple[float, ...] = ()


NORM = (("grad_norm", "before", "solid"), ("grad_norm_clipped", "after", "dot"), ("grad_norm_limit", "limit", "dash"))
FACTORS = (("clip_coefficient", "clip coefficient", "solid"), ("lr_factor", "LR factor", "dash"))
PANELS = (
    Panel("global gradient norm", NORM, log=True),
    Panel("loss", (("loss", "", "solid"),)),
    Panel("multipliers", FACTORS, always=(0, 1)),
    Panel("effective learning rate", (("lr", "", "solid"),), always=(0,)),
    Panel("depth slope, decades per layer", (("depth_slope", "", "solid"),), always=(-0.1, 0.1)),
)


@dataclass(frozen=True)
class Stage:
    """What the figures of all runs share, so that they compare.

    Args:
        theme: The colours.
        width: Of each figure, in pixels.
        height: Likewise.
        panels: Under the heatmap, each with the limits of its value axis.
        scale: Log10 at both ends of the colour scale.
        steps: Ends of the step axis.
        symbols: Of the kinds of incidents.
    """

    theme: Theme
    width: int
    height: int
    panels: list[tuple[Panel, list[float]]]
    scale: tuple[float, float]
    steps: list[float]
    symbols: dict[str, tuple[str, str]]

    @property
    def left(self) -> int:
        """Margin for the rows' labels, in pixels."""
        return int(min(max(0.16 * self.width, 80), 190))


def draw(views: Sequence[RunView], *, dark: bool = False, width: int = 960, height: int = 720) -> list[go.Figure]:
    """One figure a run, all with the same panels, colour scale, step axis and value axes, so that runs compare.

    Args:
        views: The runs, answers to the same question.
        dark: For a dark page.
        width: Of each figure, in pixels.
        height: Likewise.
    """
    limits = [(panel, value_range(panel, views)) for panel in (*layer_panels(views), *PANELS)]
    shown = [(panel, span) for panel, span in limits if span is not None]
    symbols = kind_symbols(incident["kind"] for view in views for incident in view.incidents)
    stage = Stage(DARK if dark else LIGHT, width, height, shown, color_range(views), step_range(views), symbols)
    return [draw_run(view, stage) for view in views]


def draw_run(view: RunView, stage: Stage) -> go.Figure:
    """The figure of one run."""
    rows = 1 + len(stage.panels)
    heights = [3.4, *(1.0 for _ in stage.panels)]
    figure = make_subplots(rows, 1, shared_xaxes=True, row_heights=heights, vertical_spacing=22 / stage.height)
    style(figure, stage)
    add_heatmap(figure, view, stage.theme, stage.scale, stage.left // 7, stage.symbols)
    for row, (panel, span) in enumerate(stage.panels, start=2):
        add_panel(figure, view, panel, row, span, stage.theme)
    add_lines(figure, view.incidents, stage.theme)
    add_titles(figure, [heat_title(view), *(panel_title(panel, stage.theme) for panel, _ in stage.panels)], stage.theme)
    return figure


def style(figure: go.Figure, stage: Stage) -> None:
    """Axes, margins and colours."""
    theme = stage.theme
    figure.update_xaxes(
        range=stage.steps, gridcolor=theme.grid, zeroline=False, tickformat=",d", showspikes=True, spikemode="across",
        spikethickness=1, spikecolor=theme.muted, spikedash="solid", spikesnap="cursor", ticks="",
    )  # fmt: skip
    figure.update_xaxes(title={"text": "step", "standoff": 2}, row=1 + len(stage.panels), col=1)
    figure.update_yaxes(gridcolor=theme.grid, zeroline=False, tickfont={"size": 10}, fixedrange=True)
    figure.update_layout(
        width=stage.width, height=stage.height, margin={"l": stage.left, "r": 52, "t": 20, "b": 36},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", template=None, hovermode="closest",
        font={"color": theme.text, "size": 11, "family": "Roboto, system-ui, sans-serif"}, dragmode="zoom",
    )  # fmt: skip


def add_panel(figure: go.Figure, view: RunView, panel: Panel, row: int, span: list[float], theme: Theme) -> None:
    """The curves of one panel."""
    for (name, word, dash), color in zip(panel.curves, theme.series, strict=False):
        x, y = view.curves.get(name, (np.zeros(0, np.int64), np.zeros(0)))
        figure.add_scatter(
            x=x, y=np.where(np.isfinite(y), y, np.nan), mode="lines", name=word or panel.title, showlegend=False,
            line={"color": color, "width": 1.5, "dash": dash}, hovertemplate="step %{x}: %{y:.4g}", row=row, col=1,
        )  # fmt: skip
    decades: dict[str, Any] = {
        "type": "log",
        "exponentformat": "power",
        "dtick": max(1, round((span[1] - span[0]) / 3)),
    }
    figure.update_yaxes(**(decades if panel.log else {"nticks": 4}), range=span, row=row, col=1)


def add_lines(figure: go.Figure, incidents: Sequence[dict[str, Any]], theme: Theme) -> None:
    """A line through all panels where an incident starts, and a shade while any lasts."""
    across, shaded = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1}, -math.inf
    for incident in incidents[:LINES]:
        color, first = theme.outcome(incident.get("outcome")), incident["x"]
        figure.add_shape(type="line", x0=first, x1=first, line={"color": color, "width": 1, "dash": "dot"}, **across)
        last, first = max(first, incident.get("x_last") or first), max(first, shaded)
        shaded = max(shaded, last)
        if last <= first:
            continue  # one step, or shaded already
        figure.add_shape(
            type="rect", x0=first, x1=last, fillcolor=color, opacity=0.10, line={"width": 0}, layer="below", **across
        )


def add_titles(figure: go.Figure, titles: Sequence[str], theme: Theme) -> None:
    """Each panel's title above its left corner."""
    for i, title in enumerate(titles):
        axis = figure.layout["yaxis" if i == 0 else f"yaxis{i + 1}"]
        figure.add_annotation(
            text=title, xref="paper", yref="paper", x=0, y=axis.domain[1], xanchor="left", yanchor="bottom",
            showarrow=False, font={"size": 11, "color": theme.muted}, align="left", borderpad=0,
        )  # fmt: skip


def panel_title(panel: Panel, theme: Theme) -> str:
    """The panel's title, its curves named in their own colour and dash."""
    named = (
        f'   <span style="color:{color}">{DASHES[dash]} {word}</span>'
        for (_, word, dash), color in zip(panel.curves, theme.series, strict=False)
        if word
    )
    return f"<b>{panel.title}</b>" + "".join(named)


def layer_panels(views: Sequence[RunView]) -> list[Panel]:
    """The chosen layer's panel."""
    question = views[0].question
    title = f"{statistic_words(question.statistic)} of {label(question.layer, 60)}"
    return [Panel(title, (("layer", "", "solid"),), log=True)] if any("layer" in v.curves for v in views) else []


def step_range(views: Sequence[RunView]) -> list[float]:
    """The step axis shared by all runs: what was asked for, otherwise all of every run."""
    question = views[0].question
    low = question.low if math.isfinite(question.low) else min(v.extent[0] for v in views)
    high = question.high if math.isfinite(question.high) else max(v.extent[1] for v in views)
    return [low, max(high, low + 1)]


def value_range(panel: Panel, views: Sequence[RunView]) -> list[float] | None:
    """Limits of a panel's axis over all runs, as logarithms on a log axis; None where nothing can be drawn."""
    curves = [v.curves[name][1] for v in views for name, _, _ in panel.curves if name in v.curves]
    values = np.concatenate([*curves, np.zeros(0)])
    values = values[np.isfinite(values)]
    span = bulk(np.log10(values[values > 0]) if panel.log else values)
    if span is None:
        return None
    low, high = min(span[0], *panel.always, math.inf), max(span[1], *panel.always, -math.inf)
    pad = max(0.08 * (high - low), 0.2 if panel.log else 0.02 * max(abs(low), abs(high)), 1e-12)
    return [low - pad, high + pad]
