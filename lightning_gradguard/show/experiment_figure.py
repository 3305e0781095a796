"""Draws an experiment: the loss of every setting over its steps, and over the factors of the learning rate."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from string import Template

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lightning_gradguard.remedies import ScaleLR
from lightning_gradguard.show.theme import LIGHT, robust_range
from lightning_gradguard.step.experiment import Arm

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>GradGuard doctor</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#202124}
pre{white-space:pre-wrap;background:#f5f6f7;padding:1em;border-radius:6px}td,th{text-align:left;padding:2px 16px 2px 0}
td:last-child,th:last-child{text-align:right;font-variant-numeric:tabular-nums}</style></head><body>
<h1>GradGuard doctor</h1><pre>$verdict</pre>$figure<h2>What was tried</h2>
<table><tr><th>setting</th><th>loss</th></tr>$rows</table></body></html>
""")


def experiment_figure(control: Arm, arms: Sequence[Arm], best: Arm | None) -> go.Figure:
    """Two panels: the losses of the run, of the best setting and of all others over their steps; loss over rates.

    Args:
        control: The run.
        arms: Every setting that was tried.
        best: The one that is told of, if there is one.
    """
    titles = ("loss over the steps that were taken", "loss over the factor of the learning rate")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, column_widths=[0.62, 0.38], horizontal_spacing=0.1)
    run, chosen, other = LIGHT.series
    others = [arm for arm in arms if arm is not best]
    for arm in others:
        add_losses(figure, arm, other, f"{name_of(arm)}", width=1, opacity=0.35, shown=arm is others[0])
    if best is not None:
        add_losses(figure, best, chosen, name_of(best), width=2.5)
    add_losses(figure, control, run, "the run as it is", width=2.5)
    rates = sorted((arm.candidate.remedies[0].factor, arm.loss) for arm in arms if is_rate(arm))  # type: ignore[union-attr, index]
    points = [(1.0, control.loss), *rates]
    known = sorted((factor, loss) for factor, loss in points if math.isfinite(loss))
    x, y = [factor for factor, _ in known], [loss for _, loss in known]
    figure.add_scatter(x=x, y=y, mode="lines+markers", line={"color": run}, showlegend=False, row=1, col=2)
    figure.update_xaxes(title="optimizer step", gridcolor=LIGHT.grid, row=1, col=1)
    rates_axis = {"title": "factor (1: the run as it is)", "type": "log", "exponentformat": "power"}
    figure.update_xaxes(**rates_axis, gridcolor=LIGHT.grid, row=1, col=2)
    scale = axis_type(control, arms)
    decades = {"dtick": 1, "exponentformat": "power"} if scale == "log" else {}
    figure.update_yaxes(title="training loss", type=scale, gridcolor=LIGHT.grid, **decades)
    figure.update_yaxes(range=loss_range(control, arms), row=1, col=1)
    return figure.update_layout(
        height=460, template="plotly_white", font={"color": LIGHT.text}, legend={"orientation": "h", "y": -0.2},
        margin={"t": 40, "r": 10},
    )  # fmt: skip


def add_losses(
    figure: go.Figure, arm: Arm, color: str, name: str, width: float, opacity: float = 1.0, shown: bool = True
) -> None:
    """One line of losses."""
    label = "other settings" if opacity < 1 else name
    losses = [loss if math.isfinite(loss) else None for loss in arm.history]
    figure.add_scatter(
        x=list(range(1, len(losses) + 1)), y=losses, mode="lines", name=label, opacity=opacity, showlegend=shown,
        line={"color": color, "width": width}, hovertemplate=f"{name}<br>step %{{x}}: loss %{{y:.4g}}<extra></extra>",
        row=1, col=1,
    )  # fmt: skip


def name_of(arm: Arm) -> str:
    """What a setting is called."""
    return arm.candidate.name if arm.candidate is not None else ""


def is_rate(arm: Arm) -> bool:
    """Whether a setting changes nothing but the learning rate."""
    remedies = arm.candidate.remedies if arm.candidate is not None else ()
    return isinstance(remedies, tuple) and len(remedies) == 1 and isinstance(remedies[0], ScaleLR)


def loss_range(control: Arm, arms: Sequence[Arm]) -> tuple[float, float] | None:
    """Limits of the loss axis, in the units of plotly: a setting that explodes does not flatten the others."""
    losses = np.array([loss for arm in (control, *arms) for loss in arm.history if math.isfinite(loss)])
    return robust_range(np.log10(losses) if axis_type(control, arms) == "log" else losses)


def axis_type(control: Arm, arms: Sequence[Arm]) -> str:
    """A logarithmic axis where all losses are above 0 and span more than a decade."""
    losses = [loss for arm in (control, *arms) for loss in arm.history if math.isfinite(loss)]
    return "log" if losses and min(losses) > 0 and max(losses) > 10 * min(losses) else "linear"


def experiment_page(verdict: str, figure: go.Figure, rows: Sequence[tuple[str, float]]) -> str:
    """A page of its own, with plotly inside.

    Args:
        verdict: In words.
        figure: See `experiment_figure`.
        rows: Every setting that was tried, with its loss.
    """
    cells = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{loss:.4g}</td></tr>" for name, loss in sorted(rows, key=lambda r: r[1])
    )
    picture = figure.to_html(full_html=False, include_plotlyjs=True)
    return PAGE.substitute(verdict=html.escape(verdict), figure=picture, rows=cells)
