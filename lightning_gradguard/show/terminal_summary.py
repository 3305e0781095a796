"""A summary of runs for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_gradguard.show.html_report import Run, report_data

COLORS = {
    "healthy": "green",
    "resolved": "green",
    "recovered": "green",
    "open": "yellow",
    "degraded": "yellow",
    "unrecoverable": "red",
    "malformed": "red",
}


def summary(runs: Sequence[Run]) -> RenderableType:
    """One table row for each run, then all incidents: `rich.print(summary(["lightning_logs/version_0"]))`.

    Args:
        runs: Directories of runs, or directories that contain runs.

    Raises:
        FileNotFoundError: If there is no run in one of `runs`.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("run", "state", "summary", "loss", "max. gradient norm"):
        table.add_column(column, overflow="fold")
    data, lines = report_data(runs), []
    for run in data:
        first: dict[str, Any] = next(iter(run["curves"].values()), {})
        loss, norm = first.get("loss", {}), first.get("grad_norm", {})
        state = Text(run["state"], style=COLORS[run["state"]])
        numbers = [
            f"{loss['first']:.3g} \u2192 {loss['last']:.3g}" if "first" in loss else "",
            f"{norm['max']:.3g}" if "max" in norm else "",
        ]
        table.add_row(Text(run["run"]), state, Text(run["headline"]), *numbers)
        lines += [Text(f"{run['run']}: {incident['text']}") for incident in run["incidents"]]
        lines += [Text(f"{run['run']}: note: {problem}", style="yellow") for problem in run["problems"]]
    return Group(table, *([Text("")] if lines else []), *lines)
