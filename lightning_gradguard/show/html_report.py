"""Reports without TensorBoard: a self-contained HTML file, and plain data for scripts.

The data is read as the GradGuard tab reads it: every step from the recording in the run's directory, whatever its
logger, and the rest from TensorBoard's event files.
"""

from __future__ import annotations

import base64
import gzip
import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider

from lightning_gradguard.record.incident_log import INCIDENT_LOG
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.step_format import FOLDER, RECORDINGS
from lightning_gradguard.show.event_files import EVENTS, read_event_files
from lightning_gradguard.show.plotly_asset import plotly_js
from lightning_gradguard.show.recording import Recording, find_recordings
from lightning_gradguard.show.run_reader import RunReader, natural, trials_of, worst_outcome, worst_state
from lightning_gradguard.show.run_view import FigureQuery, RunView, headline, malformed_view, read_view

#: Size of a figure in pixels, and its width where two stand side by side on a laptop's screen.
WIDTH, HEIGHT, HALF = 900, 760, 590
#: A directory, or a URL such as `s3://bucket/runs`.
Run = str | os.PathLike[str]


def report_data(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Summarizes each run as plain data, ready for `json.dumps`.

    Args:
        runs: Directories of runs, or directories that contain runs.

    Returns:
        For each run its name, path, state, headline and incidents; by optimizer its layers and curves (first, last,
        smallest and largest finite value, and the number of non-finite values); and what could not be read.

    Raises:
        FileNotFoundError: If there is no run in one of `runs`.
    """
    return [run_data(name, path, views) for name, path, views in read_runs(runs)]


def write_html(runs: Sequence[Run], out: Path) -> None:
    """Writes the figures of the tab and the incidents into one self-contained HTML file that needs no network.

    Args:
        runs: Directories of runs, or directories that contain runs. Several runs are drawn with common axes.
        out: The file to write.

    Raises:
        FileNotFoundError: If there is no run in one of `runs`.
    """
    from plotly.io.json import to_json_plotly

    from lightning_gradguard.show.figures import draw_safely

    found = read_runs(runs)
    optimizers = sorted({view.query.optimizer for _, _, views in found for view in views})
    width = WIDTH if len(found) == 1 else HALF
    figures: list[dict[str, Any]] = []
    sections = []
    for optimizer in optimizers:
        views = [view for _, _, all_views in found for view in all_views if view.query.optimizer == optimizer]
        numbers = range(len(figures), len(figures) + len(views))
        views, drawn = draw_safely(views, width=width, height=HEIGHT)
        figures += [figure.to_plotly_json() for figure in drawn]
        title = f"<h2>Optimizer {html.escape(optimizer)}</h2>" if len(optimizers) > 1 else ""
        cards = "".join(run_card(view, number) for view, number in zip(views, numbers, strict=True))
        sections.append(f'{title}<div class="runs">{cards}</div>')
    page = Template((Path(__file__).with_name("report.html")).read_text(encoding="utf-8")).substitute(
        title="GradGuard report", width=width, sections="".join(sections),
        plotly=base64.b64encode(gzip.compress(plotly_js())).decode(),
        figures=to_json_plotly(figures).replace("<", "\\u003c"),
    )  # fmt: skip
    out.write_text(page, encoding="utf-8")


def run_card(view: RunView, number: int) -> str:
    """One run in HTML: headline, placeholder of its figure, incidents."""
    escaped = html.escape
    rows = "".join(
        f'<tr><td><button data-from="{low:g}" data-to="{high:g}">step {incident["x"]}</button></td>'
        f"<td>{escaped(str(incident['kind']))}</td>"
        f'<td class="{escaped(str(incident.get("outcome")))}">{escaped(str(incident.get("outcome")))}</td>'
        f"<td>{escaped(str(incident.get('text', '')))}{trial_table(trials_of(incident))}</td></tr>"
        for incident in view.incidents
        for low, high in [zoom_range(incident, view.extent)]
    )
    notes = "".join(f"<p>Note: {escaped(problem)}</p>" for problem in dict.fromkeys(view.problems))
    return (
        f'<div class="run"><h2>{escaped(view.run)} <span class="state {view.state}">{view.state}</span></h2>'
        f'<p>{escaped(view.headline)}</p><div id="plot{number}"></div>{notes}<table>{rows}</table></div>'
    )


def trial_table(trials: Sequence[Mapping[str, Any]]) -> str:
    """What an experiment about an incident has tried, folded; empty without one."""
    if not trials:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(str(t.get('remedies')))}</td><td>{html.escape(number(t.get('loss')))}</td>"
        f"<td>{html.escape(str(t.get('outcome')))}</td></tr>"
        for t in trials
    )
    head = "<tr><th>remedies</th><th>loss</th><th></th></tr>"
    return f"<details><summary>Tried beside the run</summary><table>{head}{rows}</table></details>"


def number(value: Any) -> str:
    """A number with four digits; text as it is."""
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)


def zoom_range(incident: dict[str, Any], extent: tuple[int, int]) -> tuple[float, float]:
    """The steps of an incident, with a margin on both sides."""
    first, last = incident["x"], max(incident["x"], incident.get("x_last") or 0)
    margin = max(0.5 * (last - first), 0.04 * (extent[1] - extent[0]), 5)
    return first - margin, last + margin


def run_data(name: str, path: Location, views: Sequence[RunView]) -> dict[str, Any]:
    """The entry of one run in `report_data`."""
    incidents = [incident for view in views for incident in view.incidents]
    return {
        "run": name,
        "path": str(path),
        "state": worst_state([view.state for view in views]),
        "headline": views[0].headline,
        "incidents": incidents,
        "layers": {view.query.optimizer: list(view.heatmap.names) for view in views if view.heatmap is not None},
        "curves": {view.query.optimizer: curve_summaries(view) for view in views},
        "problems": list(dict.fromkeys(problem for view in views for problem in view.problems)),
    }


def curve_summaries(view: RunView) -> dict[str, dict[str, float | int]]:
    """Each curve of a run in a few numbers; the largest gradient norm is that of all steps, written or not."""
    summaries = {name: curve_summary(y) for name, (_, y) in view.curves.items()}
    largest = summaries.pop("grad_norm_max", {}).get("max", -math.inf)
    if "grad_norm" in summaries and summaries["grad_norm"].get("max", -math.inf) < largest:
        summaries["grad_norm"]["max"] = largest
    return summaries


def curve_summary(y: NDArray[np.float64]) -> dict[str, float | int]:
    """First, last, smallest and largest finite value of a curve, and the number of non-finite values."""
    finite = y[np.isfinite(y)]
    ends = {"first": finite[0], "last": finite[-1], "min": finite.min(), "max": finite.max()} if len(finite) else {}
    return {**{key: float(value) for key, value in ends.items()}, "not_finite": int(len(y) - len(finite))}


def read_runs(paths: Sequence[Run]) -> list[tuple[str, Location, list[RunView]]]:
    """The name, directory and views (one for each optimizer) of every run in `paths`."""
    folders = [folder for path in paths for folder in find_runs(path)]
    names = unique_names(folders)
    provider, problems = read_event_files(zip(names, folders, strict=True))
    return [
        (name, folder, [replace(view, problems=[*problems[name], *view.problems]) for view in views])
        for name, folder in zip(names, folders, strict=True)
        for views in [read_views(provider, name, folder)]
    ]


def read_views(provider: MultiplexerDataProvider, name: str, folder: Location) -> list[RunView]:
    """One view for each optimizer of a run; only the incident log where there are neither events nor recorded steps."""
    try:
        reader = RunReader(provider, context.RequestContext(), "", name, folder=folder)
        views = [read_view(reader, FigureQuery(optimizer=optimizer)) for optimizer in reader.statistics]
        return views or [view_of_log(name, folder, reader.index.problems)]
    except Exception as error:  # whatever it is, it is about this run alone
        return [malformed_view(name, FigureQuery(), error)]


def view_of_log(name: str, folder: Location, problems: Sequence[str]) -> RunView:
    """A run of which only the incident log is known."""
    log, incidents = folder / INCIDENT_LOG, Recording(folder).incidents()
    last = max((incident["x_last"] for incident in incidents), default=0)
    missing = f"{folder} has neither recorded steps nor an event file with GradGuard's data"
    missing += f", only {INCIDENT_LOG}." if log.exists() else "."
    return RunView(
        name, FigureQuery(), None, [], {}, incidents, (0, last), state=worst_outcome(incidents),
        headline=headline(incidents, None, last) if log.exists() else "no GradGuard data.",
        problems=[*problems, missing],
    )  # fmt: skip


def find_runs(path: Run) -> list[Location]:
    """The directories of runs in `path`, which may be one itself.

    Raises:
        FileNotFoundError: If there is no run.
    """
    root = Location(path)
    folders = {str(file.parent): file.parent for file in root.find(EVENTS, INCIDENT_LOG)}
    folders |= {str(folder): folder for folder in find_recordings(root).values()}
    if not folders:
        raise FileNotFoundError(
            f"There is no run in {path}: it contains neither TensorBoard event files nor {INCIDENT_LOG} nor "
            f"{FOLDER}/{RECORDINGS}. Give the directory that the logger wrote, such as lightning_logs/version_0."
        )
    return [folders[name] for name in sorted(folders, key=natural)]


def unique_names(folders: Sequence[Location]) -> list[str]:
    """The last part of each path, or as many parts as make the names unique; three for a guard with a name."""
    paths = [folder.path.strip("/").split("/") for folder in folders]
    least = [3 if path[-2:-1] == [FOLDER] else 1 for path in paths]
    for more in range(20):
        names = ["/".join(path[-(more + parts) :]) for path, parts in zip(paths, least, strict=True)]
        if len(set(names)) == len({folder.path for folder in folders}):
            break
    return names
