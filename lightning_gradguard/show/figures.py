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

from lightning_gradguard.show.downsample import with_gaps
from lightning_gradguard.show.heatmap_figure import add_heatmap, color_range, heatmap_title
from lightning_gradguard.show.panels import PANELS, Line, Panel
from lightning_gradguard.show.run_view import RunView, malformed_view
from lightning_gradguard.show.theme import (
    DARK,
    LIGHT,
    UNITS,
    Theme,
    kind_symbols,
    robust_range,
    short_label,
    statistic_title,
)
from lightning_gradguard.show.time_line import add_time_line, counts_by_kind, time_line_title

#: Most incidents whose starts are drawn as lines through all panels: more would hide the curves.
MAX_INCIDENT_LINES = 60
#: plotly's dashes, as text for the titles.
DASHES = {"solid": "\u2014", "dash": "- -", "dot": "\u00b7\u00b7\u00b7"}


#: Curves that are 0 where the optimizer's step was skipped: drawn as a gap, because nothing was clipped there.
GAP_AT_ZERO = ("clip_coefficient", "grad_norm_clipped")
#: Share of the values at each end of a panel's axis that may lie outside it.
CUT = 0.05
#: Pixels between two panels, and around all of them.
GAP, TOP, BOTTOM, RIGHT = 24, 20, 36, 62


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
        most: Incidents in the highest bar of the time line.
    """

    theme: Theme
    width: int
    height: int
    panels: list[tuple[Panel, list[float]]]
    color_range: tuple[float, float]
    step_range: list[float]
    symbols: dict[str, tuple[str, str]]
    most: int

    @property
    def left(self) -> int:
        """Left margin for the row labels, in pixels."""
        return int(min(max(0.16 * self.width, 80), 190))

    @property
    def parts(self) -> list[float]:
        """Relative heights: of the heatmap, of the time line where there are incidents, and of the panels."""
        return [3.4, *([0.6] if self.symbols else []), *(1.0 for _ in self.panels)]

    @property
    def domains(self) -> list[tuple[float, float]]:
        """Where each part begins and ends, as shares of the plot's height, from below."""
        inside = self.height - TOP - BOTTOM
        unit = (inside - GAP * (len(self.parts) - 1)) / sum(self.parts)
        ends = inside - np.cumsum([0.0, *(part * unit + GAP for part in self.parts[:-1])])
        return [
            (max((end - part * unit) / inside, 0.0), end / inside)
            for end, part in zip(ends.tolist(), self.parts, strict=True)
        ]


def draw_figures(
    views: Sequence[RunView], *, dark: bool = False, width: int = 960, height: int = 720, full: bool = False
) -> list[go.Figure]:
    """Draws one figure for each run, with common panels, axes and color scale.

    Args:
        views: The runs, all read with the same query.
        dark: Whether the page is dark.
        width: Width of each figure, in pixels.
        height: Height of each figure, in pixels.
        full: Whether every value lies inside the axes of the panels, also what would flatten the rest.
    """
    cut = 0.0 if full else CUT
    limits = [(panel, value_range(panel, views, cut)) for panel in (*layer_panels(views), *PANELS)]
    panels = [(panel, span) for panel, span in limits if span is not None]
    symbols = kind_symbols(incident["kind"] for view in views for incident in view.incidents)
    theme, steps = DARK if dark else LIGHT, step_range(views)
    kinds = sorted(symbols)
    most = max(int(counts_by_kind(view, steps, kinds).sum(axis=0).max()) for view in views)
    layout = FigureLayout(theme, width, height, panels, color_range(views), steps, symbols, most)
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
    """Draws the figure of one run: all panels on one step axis."""
    figure = go.Figure()
    style_axes(figure, layout)
    low, high = layout.domains[0]
    inside = layout.height - TOP - BOTTOM
    add_heatmap(figure, view, layout.theme, layout.color_range, layout.left, int((high - low) * inside), layout.symbols)
    titles = [heatmap_title(view, layout.width // 6)]  # about 6 pixels a character
    if layout.symbols:
        kinds = sorted(layout.symbols)
        add_time_line(figure, view, layout.theme, layout.step_range, kinds, layout.most)
        titles.append(time_line_title(kinds, layout.theme, layout.width // 6))
    for panel, span in layout.panels:
        add_panel(figure, view, panel, f"y{len(titles) + 1}", span, layout.theme)
        titles.append(panel_title(panel, layout.theme))
    add_incident_lines(figure, [i for i in view.incidents if is_shown(i, layout.step_range)], layout.theme)
    add_titles(figure, titles, layout)
    return figure


def style_axes(figure: go.Figure, layout: FigureLayout) -> None:
    """Sets axes, margins and colors."""
    theme, last = layout.theme, len(layout.domains)
    axis = {"gridcolor": theme.grid, "zeroline": False, "tickfont": {"size": 10}, "fixedrange": True}
    for i, domain in enumerate(layout.domains, start=1):
        figure.layout[f"yaxis{i}" if i > 1 else "yaxis"] = {**axis, "domain": domain, "anchor": "x"}
    figure.update_layout(
        xaxis={
            "range": layout.step_range, "gridcolor": theme.grid, "zeroline": False, "tickformat": ",d", "ticks": "",
            "title": {"text": "training step", "standoff": 2}, "anchor": f"y{last}" if last > 1 else "y",
            "showspikes": True, "spikemode": "across", "spikethickness": 1, "spikecolor": theme.muted,
            "spikedash": "solid", "spikesnap": "cursor",
        },
        width=layout.width, height=layout.height, margin={"l": layout.left, "r": RIGHT, "t": TOP, "b": BOTTOM},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", template=None, hovermode="closest",
        font={"color": theme.text, "size": 11, "family": "Roboto, system-ui, sans-serif"}, dragmode="zoom",
        barmode="stack", bargap=0, spikedistance=-1,
    )  # fmt: skip


def add_panel(figure: go.Figure, view: RunView, panel: Panel, axis: str, span: list[float], theme: Theme) -> None:
    """Draws the curves of one panel, step-shaped: a value holds until the next one."""
    for line, color in zip(panel.lines, theme.series, strict=False):
        steps, values = view.curves.get(line.name, (np.zeros(0, np.int64), np.zeros(0)))
        x, y = with_gaps(steps, np.where(values == 0, np.nan, values) if line.name in GAP_AT_ZERO else values)
        figure.add_scatter(
            x=x, y=y, yaxis=axis, mode="lines", name=line.title, showlegend=False,
            line={"color": color, "width": 1.5, "dash": line.dash, "shape": "hv"},
            hovertemplate=f"step %{{x:,d}}<br>{line.title} %{{y:.4~g}} ({panel.unit})<extra></extra>",
        )  # fmt: skip
    decades: dict[str, Any] = {
        "type": "log",
        "exponentformat": "power",
        "dtick": max(1, round((span[1] - span[0]) / 3)),
    }
    title_font = {"size": 10, "color": theme.muted}
    style = {**(decades if panel.log else {"nticks": 4}), "range": span}
    figure.layout[f"yaxis{axis[1:]}"].update(**style, title={"text": panel.unit, "standoff": 2, "font": title_font})


def add_incident_lines(figure: go.Figure, incidents: Sequence[dict[str, Any]], theme: Theme) -> None:
    """Draws a line through all panels at the start of each incident, and shades the steps that it lasted."""
    across, shaded = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1}, -math.inf
    for incident in incidents if len(incidents) <= MAX_INCIDENT_LINES else ():
        color, first = theme.outcome(incident.get("outcome")), incident["x"]
        figure.add_shape(type="line", x0=first, x1=first, line={"color": color, "width": 1, "dash": "dot"}, **across)
        last, first = max(first, incident.get("x_last") or first), max(first, shaded)
        shaded = max(shaded, last)
        if last <= first:
            continue  # a single step, or shaded already
        figure.add_shape(
            type="rect", x0=first, x1=last, fillcolor=color, opacity=0.10, line={"width": 0}, layer="below", **across
        )


def is_shown(incident: dict[str, Any], steps: Sequence[float]) -> bool:
    """Whether an incident lies in the shown steps."""
    return bool(incident["x"] <= steps[1] and max(incident["x"], incident.get("x_last") or 0) >= steps[0])


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
        f'   <span style="color:{color}">{DASHES[line.dash]} {line.label}</span>'
        for line, color in zip(panel.lines, theme.series, strict=False)
        if line.label
    )
    return f"<b>{panel.title}</b>" + "".join(labels)


def layer_panels(views: Sequence[RunView]) -> list[Panel]:
    """The panel of the chosen layer, where any run has it."""
    query = views[0].query
    title = f"{statistic_title(query.statistic)} of {short_label(query.layer, 60)}"
    unit = UNITS.get(query.statistic, "value")
    line = Line("layer", statistic_title(query.statistic), "")
    return [Panel(title, unit, (line,), log=True)] if any("layer" in v.curves for v in views) else []


def step_range(views: Sequence[RunView]) -> list[float]:
    """Limits of the common step axis: as queried, by default all steps of every run."""
    query = views[0].query
    low = query.low if math.isfinite(query.low) else min(v.extent[0] for v in views)
    high = query.high if math.isfinite(query.high) else max(v.extent[1] for v in views)
    return [low, max(high, low + 1)]


def value_range(panel: Panel, views: Sequence[RunView], cut: float = CUT) -> list[float] | None:
    """Limits of a panel's value axis over all runs, as log10 on a log axis; None if there is nothing to draw.

    Args:
        panel: The panel.
        views: The runs.
        cut: Share of the values at each end that may lie outside; 0 shows all of them.
    """
    curves = [v.curves[name][1] for v in views for line in panel.lines if (name := line.name) in v.curves]
    values = np.concatenate([*curves, np.zeros(0)])
    values = values[np.isfinite(values)]
    span = robust_range(np.log10(values[values > 0]) if panel.log else values, cut=cut)
    if span is None:
        return None
    low, high = min(span[0], *panel.include, math.inf), max(span[1], *panel.include, -math.inf)
    pad = max(0.08 * (high - low), 0.2 if panel.log else 0.02 * max(abs(low), abs(high)), 1e-12)
    return [low - pad, high + pad]
