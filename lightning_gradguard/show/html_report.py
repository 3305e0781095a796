"""A run's report without TensorBoard: one HTML file, a summary for the terminal, plain data for scripts.

Everything is read from the run's event files, as the GradGuard tab reads it; a run that was logged elsewhere still has
its `incidents.jsonl`.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from lightning_gradguard.record.incident_log import INCIDENT_LOG, read_incidents
from lightning_gradguard.show import metadata
from lightning_gradguard.show.history import History, outcome
from lightning_gradguard.show.plotly_asset import plotly_js
from lightning_gradguard.show.run_view import FigureQuery, RunView, headline, read_view

EVENTS = "*tfevents*"
#: Size of a figure in the file, in pixels. Chosen: two side by side on a wide screen.
WIDTH, HEIGHT = 900, 760


def report_data(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Each run's story as plain data, ready for `json.dumps`.

    Args:
        runs: Directories of runs, or directories with runs somewhere in them.

    Returns:
        For each run its name, path, state, headline, incidents, layers, curves (first, last, smallest and largest
        finite value, and how many were not finite, by optimizer), and what could not be read.

    Raises:
        FileNotFoundError: If there is no run in one of `runs`.
    """
    return [run_data(name, path, views) for name, path, views in read_runs(runs)]


def write_html(runs: Sequence[Path], out: Path) -> None:
    """Writes one self-contained HTML file: the tab's figures and the incidents, to be opened from disk, offline.

    Args:
        runs: As in `report_data`; several are drawn with common axes, side by side where there is room.
        out: The file to write.

    Raises:
        FileNotFoundError: As in `report_data`.
    """
    from plotly.io.json import to_json_plotly

    from lightning_gradguard.show.figures import draw

    found = read_runs(runs)
    optimizers = sorted({view.question.optimizer for _, _, views in found for view in views})
    figures: list[dict[str, Any]] = []
    sections = []
    for optimizer in optimizers:
        views = [view for _, _, all_views in found for view in all_views if view.question.optimizer == optimizer]
        numbers = range(len(figures), len(figures) + len(views))
        figures += [figure.to_plotly_json() for figure in draw(views, width=WIDTH, height=HEIGHT)]
        title = f"<h2>Optimizer {html.escape(optimizer)}</h2>" if len(optimizers) > 1 else ""
        cards = "".join(run_card(view, number) for view, number in zip(views, numbers, strict=True))
        sections.append(f'{title}<div class="runs">{cards}</div>')
    page = Template((Path(__file__).with_name("report.html")).read_text(encoding="utf-8")).substitute(
        title="GradGuard report", width=WIDTH, sections="".join(sections), plotly=plotly_js().decode(),
        figures=to_json_plotly(figures).replace("<", "\\u003c"),
    )  # fmt: skip
    out.write_text(page, encoding="utf-8")


def run_card(view: RunView, number: int) -> str:
    """One run in HTML: headline, place for its figure, incidents."""
    escaped = html.escape
    rows = "".join(
        f'<tr><td><button data-from="{low:g}" data-to="{high:g}">step {incident["x"]}</button></td>'
        f"<td>{escaped(str(incident['kind']))}</td>"
        f'<td class="{escaped(str(incident.get("outcome")))}">{escaped(str(incident.get("outcome")))}</td>'
        f"<td>{escaped(str(incident.get('text', '')))}</td></tr>"
        for incident in view.incidents
        for low, high in [surroundings(incident, view.extent)]
    )
    notes = "".join(f"<p>Not shown: {escaped(problem)}</p>" for problem in dict.fromkeys(view.problems))
    return (
        f'<div class="run"><h2>{escaped(view.run)} <span class="state {view.state}">{view.state}</span></h2>'
        f'<p>{escaped(view.headline)}</p><div id="plot{number}"></div>{notes}<table>{rows}</table></div>'
    )


def surroundings(incident: dict[str, Any], extent: tuple[int, int]) -> tuple[float, float]:
    """Steps from some way before an incident to some way after it."""
    first, last = incident["x"], max(incident["x"], incident.get("x_last") or 0)
    room = max(0.5 * (last - first), 0.04 * (extent[1] - extent[0]), 5)
    return first - room, last + room


def run_data(name: str, path: Path, views: Sequence[RunView]) -> dict[str, Any]:
    """One run of `report_data`."""
    incidents = [incident for view in views for incident in view.incidents]
    return {
        "run": name,
        "path": str(path),
        "state": outcome(incidents),
        "headline": views[0].headline,
        "incidents": incidents,
        "layers": {view.question.optimizer: list(view.heat.names) for view in views if view.heat is not None},
        "curves": {view.question.optimizer: {k: extremes(y) for k, (_, y) in view.curves.items()} for view in views},
        "problems": list(dict.fromkeys(problem for view in views for problem in view.problems)),
    }


def extremes(y: Any) -> dict[str, float | int | None]:
    """A curve in five numbers."""
    finite = y[np.isfinite(y)]
    ends = {"first": finite[0], "last": finite[-1], "min": finite.min(), "max": finite.max()} if len(finite) else {}
    return {**{key: float(value) for key, value in ends.items()}, "not_finite": int(len(y) - len(finite))}


def read_runs(paths: Sequence[Path]) -> list[tuple[str, Path, list[RunView]]]:
    """Name, directory and one view for each optimizer, of every run in `paths`."""
    folders = [folder for path in paths for folder in find_runs(path)]
    names = unique_names(folders)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # a torn last record is normal after a crash
    store = EventMultiplexer(tensor_size_guidance={metadata.PLUGIN_NAME: 0})
    for name, folder in zip(names, folders, strict=True):
        if any(folder.glob(EVENTS)):
            store.AddRun(str(folder), name)
    store.Reload()
    provider = MultiplexerDataProvider(store, "")
    return [(name, folder, views_of(provider, name, folder)) for name, folder in zip(names, folders, strict=True)]


def views_of(provider: MultiplexerDataProvider, name: str, folder: Path) -> list[RunView]:
    """One view for each optimizer of a run; without GradGuard's data in its event files, what its log tells."""
    history = History(provider, context.RequestContext(), "", name)
    optimizers = sorted({*history.index.statistics, *history.index.curves})
    if optimizers:
        return [read_view(history, FigureQuery(optimizer=optimizer, depth=None)) for optimizer in optimizers]
    log = folder / INCIDENT_LOG
    logged = [
        {**incident.to_dict(), "x": incident.first_step, "x_last": incident.last_step, "text": str(incident)}
        for incident in read_incidents(log)
    ]
    last = max((incident["x_last"] for incident in logged), default=0)
    problem = f"{folder} has no event file with GradGuard's data" + (f", only {INCIDENT_LOG}." if log.exists() else ".")
    problems = [*history.index.problems, problem]
    said = headline(logged, None, last) if log.exists() else "no GradGuard data."
    return [
        RunView(
            name,
            FigureQuery(),
            None,
            [],
            {},
            logged,
            (0, last),
            state=outcome(logged),
            headline=said,
            problems=problems,
        )
    ]


def find_runs(path: Path) -> list[Path]:
    """The directories in `path` that hold a run, `path` itself first.

    Raises:
        FileNotFoundError: If there is none.
    """
    files: Iterable[Path] = [*path.rglob(EVENTS), *path.rglob(INCIDENT_LOG)] if path.is_dir() else []
    folders = sorted({file.parent for file in files})
    if not folders:
        raise FileNotFoundError(
            f"There is no run in {path}: neither an event file of TensorBoard nor {INCIDENT_LOG}. "
            "Give the directory that the logger wrote, such as lightning_logs/version_0."
        )
    return folders


def unique_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, more of them where that is not unique."""
    for parts in range(1, 20):
        names = ["/".join(folder.resolve().parts[-parts:]) for folder in folders]
        if len(set(names)) == len(set(map(Path.resolve, folders))):
            break
    return names
