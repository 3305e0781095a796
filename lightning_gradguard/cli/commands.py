"""What the commands `report` and `replay` print: thin, over the public functions of the same name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from lightning_gradguard.detectors import AbstractDetector
from lightning_gradguard.replay import replay as replay_run
from lightning_gradguard.show.html_report import report_data, write_html
from lightning_gradguard.show.terminal_summary import summary


def report(
    runs: list[Path],
    html: Path | None = None,
    format: Literal["table", "json"] = "table",
) -> int:
    """What happened in one or several runs.

    Args:
        runs: Directories of runs, or a directory with runs in it; several are compared.
        html: Also write a self-contained HTML file here; it opens from disk, without a network.
        format: A table for people, or JSON for scripts.

    Returns:
        0, or 1 when an incident of any run is unrecoverable.

    Raises:
        FileNotFoundError: If there is no run.
    """
    stories = report_data(runs)
    if format == "json":
        print(json.dumps(stories, indent=2))
    else:
        Console().print(summary(runs))
    if html is not None:
        write_html(runs, html)
        Console(stderr=True).print(f"Wrote {html}", highlight=False, soft_wrap=True)
    return int(any(incident["outcome"] == "unrecoverable" for story in stories for incident in story["incidents"]))


def replay(
    run: Path,
    detectors: list[AbstractDetector] | None = None,
    policy: Literal["monitor", "protect", "repair"] = "protect",
    format: Literal["table", "json"] = "table",
) -> int:
    """Runs a run's recorded statistics through detectors with other settings.

    Args:
        run: The run's directory, as given to TensorBoard.
        detectors: Instead of the usual ones, e.g. `--detectors+=Exploding --detectors.factor=100`.
        policy: Whose ladders to climb: the table shows what it would have done.
        format: A table for people, or JSON for scripts.

    Raises:
        FileNotFoundError: If no steps were recorded there.
    """
    story = replay_run(run, detectors, policy)
    if format == "json":
        print(json.dumps([incident.to_dict() for incident in story.incidents], indent=2))
        return 0
    table = Table("step", "kind", "what was seen", "would have been done", title=f"{run}: {story.steps} recorded steps")
    for incident in story.incidents:
        seen = incident.detail + (f" ({incident.value:.3g}, limit {incident.limit:.3g})" if incident.value > 0 else "")
        table.add_row(incident.steps, incident.kind, seen, ", ".join(incident.actions) or "recorded")
    Console().print(table if story.incidents else f"{story.steps} recorded steps, no incident.")
    return 0
