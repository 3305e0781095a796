"""What a notebook shows of a run: the figure of the tab, and the recorded steps as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_gradguard.arguments import require
from lightning_gradguard.extras import needed_for
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.step_format import FIELDS, FOLDER, GRADIENT, recorded_optimizers, tables
from lightning_gradguard.show.recording import curves_of, last_of_each

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go


def draw_run(home: str, optimizer: str = "", dark: bool = False) -> go.Figure:
    """The tab's figure of a run.

    Args:
        home: The guard's directory.
        optimizer: The optimizer's index when there are several.
        dark: Whether the page is dark.

    Raises:
        ValueError: If the run has no recorded steps of this optimizer.
    """
    with needed_for("GradGuard.plot()"):
        from lightning_gradguard.show.event_files import read_event_files
        from lightning_gradguard.show.figures import draw_safely
        from lightning_gradguard.show.html_report import HEIGHT, WIDTH, read_views

    folder = recorded("GradGuard.plot()", home, optimizer)
    provider, _ = read_event_files([(folder.name, folder)])
    views = [view for view in read_views(provider, folder.name, folder) if view.query.optimizer == optimizer]
    return draw_safely(views, dark=dark, width=WIDTH, height=HEIGHT)[1][0]


def read_table(home: str, optimizer: str = "") -> pandas.DataFrame:
    """Loss, learning rate and gradient norms of every recorded step, those of layers as `grad_norm/<layer>`.

    Args:
        home: The guard's directory.
        optimizer: The optimizer's index when there are several.

    Raises:
        ValueError: If the run has no recorded steps of this optimizer.
    """
    with needed_for("GradGuard.to_pandas()"):
        import pandas

    folder = recorded("GradGuard.to_pandas()", home, optimizer)
    parts = []
    for header, rows in tables(folder / FOLDER, optimizer):
        names = header["layers"]
        rows = rows[rows[:, 1] == GRADIENT]
        rows = rows[last_of_each(rows[:, 0])[1]]
        values = np.hstack([curves_of(len(names), rows)[:, 1:], rows[:, len(FIELDS) : len(FIELDS) + len(names)]])
        columns = ["loss", "lr", "grad_norm", *(f"grad_norm/{name}" for name in names)]
        parts.append(pandas.DataFrame(values, pandas.Index(rows[:, 0].astype(int), name="step"), columns))
    whole = pandas.concat(parts)
    return whole[~whole.index.duplicated(keep="last")].sort_index()


def recorded(call: str, home: str, optimizer: str) -> Location:
    """A guard's directory, in which the steps of this optimizer are recorded."""
    known = recorded_optimizers(Location(home) / FOLDER) if home else []
    require(
        bool(known), call, "needs a run with a logger or GradGuard(log_dir=...), and with GradGuard(record=True)", home
    )
    require(optimizer in known, f"{call[:-1]}optimizer=...)", f"must be one of {known}", optimizer)
    return Location(home)
