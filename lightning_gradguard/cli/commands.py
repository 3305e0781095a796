"""The commands `report` and `replay`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from lightning_gradguard.detectors import AbstractDetector
from lightning_gradguard.record.homes import recorded_guards
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.report import Report
from lightning_gradguard.replay import replay as replay_run
from lightning_gradguard.show.html_report import report_data, write_html
from lightning_gradguard.show.terminal_summary import summary


def report(
    runs: list[str],
    html: Path | None = None,
    format: Literal["table", "json"] = "table",
) -> int:
    """Summarizes the incidents, actions and curves of runs.

    Args:
        runs: Directories of runs, or directories that contain runs.
        html: Also write a self-contained HTML file to this path. It needs no network to open.
        format: The output format: a table, or JSON for scripts.

    Returns:
        The exit code: 1 if a run has an unrecoverable incident, else 0.

    Raises:
        FileNotFoundError: If there is no run in one of `runs`.
    """
    data = report_data(runs)
    if format == "json":
        print(json.dumps(data, indent=2))
    else:
        Console().print(summary(runs))
    if html is not None:
        write_html(runs, html)
        Console(stderr=True).print(f"Wrote {html}", highlight=False, soft_wrap=True)
    return int(any(run["state"] == "unrecoverable" for run in data))


def replay(
    run: str,
    detectors: list[AbstractDetector] | None = None,
    policy: Literal["monitor", "protect", "repair"] = "protect",
    format: Literal["table", "json"] = "table",
) -> int:
    """Runs the recorded statistics of a run through detectors with other settings, for each guard of the run.

    Args:
        run: The run's directory, as given to TensorBoard.
        detectors: Detectors to use instead of the default ones, e.g. `--detectors+=Exploding --detectors.factor=100`.
        policy: The policy whose actions the table lists.
        format: The output format: a table, or JSON for scripts.

    Raises:
        FileNotFoundError: If the directory has no recorded steps.
    """
    homes = recorded_guards(run) or {"": Location(run)}
    results = {guard: replay_run(home, detectors, policy) for guard, home in homes.items()}
    if format == "json":
        told = [{"guard": guard, **i.to_dict()} for guard, result in results.items() for i in result.incidents]
        print(json.dumps(told, indent=2))
        return 0
    for guard, result in results.items():
        Console().print(replay_table(run + (f", guard {guard}" if guard else ""), result))
    return 0


def replay_table(title: str, result: Report) -> Table | str:
    """The incidents of a replay."""
    if not result.incidents:
        return f"{result.steps} recorded steps, no incidents."
    table = Table("step", "kind", "finding", "actions of the policy", title=f"{title}: {result.steps} recorded steps")
    for incident in result.incidents:
        table.add_row(incident.steps, incident.kind, incident.detail, ", ".join(incident.actions) or "none")
    return table
