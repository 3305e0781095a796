"""How many incidents of each kind began when."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lightning_gradguard.show.run_view import RunView
from lightning_gradguard.show.theme import Theme, short_label

#: Bars over the shown steps.
BARS = 60


def add_time_line(
    figure: go.Figure, view: RunView, theme: Theme, steps: Sequence[float], kinds: Sequence[str], most: int
) -> None:
    """Draws the counts in each part of the shown steps as stacked bars, on the axes `x` and `y2` of a figure.

    Args:
        figure: The figure.
        view: The run.
        theme: The colors.
        steps: First and last shown step.
        kinds: The kinds of all runs, sorted.
        most: Incidents in the highest bar of all runs.
    """
    low, high = steps
    width = (high - low) / BARS
    x = low + width * (np.arange(BARS) + 0.5)
    for number, (kind, counts) in enumerate(zip(kinds, counts_by_kind(view, steps, kinds), strict=True)):
        figure.add_bar(
            x=x, y=counts, width=width, yaxis="y2", name=kind, showlegend=False,
            marker={"color": kind_color(number, theme), "line": {"width": 0}},
            hovertemplate=f"around step %{{x:,d}}<br>%{{y}} {short_label(kind, 40)}<extra></extra>",
        )  # fmt: skip
    title = {"text": "count", "standoff": 2, "font": {"size": 10, "color": theme.muted}}
    figure.update_layout(yaxis2={"range": [0, max(most, 1)], "dtick": -(-max(most, 1) // 2), "title": title})


def counts_by_kind(view: RunView, steps: Sequence[float], kinds: Sequence[str]) -> NDArray[np.int64]:
    """How many incidents of each kind began in each bar, `[K, BARS]`."""
    starts = ([i["x"] for i in view.incidents if i["kind"] == kind] for kind in kinds)
    rows = [np.histogram(x, bins=BARS, range=(steps[0], steps[1]))[0] for x in starts]
    return np.array(rows, np.int64).reshape(len(kinds), BARS)


def kind_color(number: int, theme: Theme) -> str:
    """The color of a kind."""
    return theme.kinds[number % len(theme.kinds)]


def time_line_title(kinds: Sequence[str], theme: Theme, max_length: int) -> str:
    """The title, with as many kinds in their colors as fit into `max_length` characters."""
    title = "incidents begun"
    text, room = f"<b>{title}</b>", max_length - len(title)
    for number, kind in enumerate(kinds):
        room -= len(kind) + 5
        if room < 0:
            return f"{text}   \u2026"
        text += f'   <span style="color:{kind_color(number, theme)}">\u25a0 {short_label(kind, 40)}</span>'
    return text
