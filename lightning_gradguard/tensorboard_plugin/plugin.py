"""TensorBoard's backend of the GradGuard tab: parses a request, reads the runs, draws, responds.

TensorBoard imports this module at startup. So it imports neither torch nor Lightning, and plotly only for a figure.
"""

from __future__ import annotations

import logging
import math
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.backend import http_util
from tensorboard.backend.experiment_id import WSGI_ENVIRON_KEY
from tensorboard.context import from_environ
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response, wrappers

from lightning_gradguard.record.location import Location
from lightning_gradguard.show import metadata
from lightning_gradguard.show.panels import PANELS, explanations
from lightning_gradguard.show.plotly_asset import plotly_js
from lightning_gradguard.show.recording import find_recordings
from lightning_gradguard.show.run_reader import Cache, RunReader, list_runs, natural, state_of, trials_of
from lightning_gradguard.show.run_view import (
    DEFAULT_STATISTIC,
    FigureQuery,
    RunView,
    malformed_view,
    read_view,
    values_at,
)
from lightning_gradguard.show.theme import TITLES, kind_symbols

STATIC = Path(__file__).parent / "static"
TYPES = {".js": "text/javascript", ".css": "text/css"}
#: Most runs side by side: two fit on a laptop's screen, four on a wide one.
MAX_RUNS = 4
#: Seconds after which the log directory is searched for new recordings. Chosen.
SEARCH_EVERY = 5.0
logger = logging.getLogger(__name__)


class GradGuardPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # TensorBoard has no types
    """The backend of the GradGuard tab. `http_api.md` describes its routes."""

    plugin_name = metadata.PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._provider = context.data_provider
        self._root = context.logdir
        self._cache: Cache = {}
        self._found: tuple[float, dict[str, Location]] = (-math.inf, {})

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """The routes. All paths are exact, so that no request can read another file."""
        files = [path for path in STATIC.iterdir() if path.suffix in TYPES]
        return {
            "/runs": self.runs_route,
            "/figures": self.figures_route,
            "/layers": self.layers_route,
            "/step": self.step_route,
            "/help": self.help_route,
            "/plotly.min.js": file_route(plotly_js, "text/javascript", expires=24 * 3600),
            **{f"/{path.name}": file_route(path.read_bytes, TYPES[path.suffix]) for path in files},
        }

    def is_active(self) -> bool:
        """Whether a run has recorded steps. Whether one has events, TensorBoard asks the data provider itself."""
        return bool(self._recordings())

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """The tab's name and the module of its page."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="GradGuard")

    def runs_impl(self, context: Any, experiment: str) -> list[dict[str, Any]]:
        """Every run with GradGuard data: its optimizers, statistics, state and what could not be read."""
        return [self._describe(context, experiment, run) for run in self._runs(context, experiment)]

    def _runs(self, context: Any, experiment: str) -> list[str]:
        return sorted({*list_runs(self._provider, context, experiment), *self._recordings()}, key=natural)

    def _recordings(self) -> dict[str, Location]:
        """The runs with recorded steps; the log directory is searched again after some seconds."""
        if self._root and time.monotonic() - self._found[0] > SEARCH_EVERY:
            try:
                found = find_recordings(Location(self._root))
            except Exception as error:  # TensorBoard may read a file system that fsspec does not
                logger.warning(
                    "GradGuard's tab shows event files alone: %s cannot be searched (%s).", self._root, error
                )
                self._root, found = "", {}
            self._found = time.monotonic(), found
        return self._found[1]

    def _reader(self, context: Any, experiment: str, run: str) -> RunReader:
        return RunReader(self._provider, context, experiment, run, self._cache, self._recordings().get(run))

    def _describe(self, context: Any, experiment: str, run: str) -> dict[str, Any]:
        try:
            return describe_run(self._reader(context, experiment, run))
        except Exception as error:  # whatever it is, it is about this run alone
            return describe_malformed(malformed_view(run, FigureQuery(), error))

    def _view(self, context: Any, experiment: str, run: str, query: FigureQuery) -> RunView:
        try:
            return read_view(self._reader(context, experiment, run), query)
        except Exception as error:
            return malformed_view(run, query, error)

    def figures_impl(
        self, context: Any, experiment: str, runs: Sequence[str], query: FigureQuery, style: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """For each run its figure, rows, incidents and headline."""
        from lightning_gradguard.show.figures import draw_safely

        known = self._runs(context, experiment)
        missing = [run for run in runs if run not in known]
        if missing:
            raise LookupError(f"There is no GradGuard data in run {missing[0]!r}.")
        views, figures = draw_safely([self._view(context, experiment, run, query) for run in runs], **style)
        symbols = kind_symbols(incident["kind"] for view in views for incident in view.incidents)
        return [
            {**describe_view(view, symbols), "figure": figure.to_plotly_json()}
            for view, figure in zip(views, figures, strict=True)
        ]

    def layers_impl(self, context: Any, experiment: str, runs: Sequence[str], optimizer: str) -> list[str]:
        """The names of all layers and modules of some runs."""
        paths = (path for run in runs for path in self._reader(context, experiment, run).paths(optimizer))
        return list(dict.fromkeys(paths))

    def step_impl(
        self, context: Any, experiment: str, runs: Sequence[str], step: int, query: FigureQuery
    ) -> list[dict[str, Any]]:
        """The value of each curve of some runs at a step, in the order of the panels."""
        titles = [(line.name, line.title) for panel in PANELS for line in panel.lines]
        if query.layer:
            titles.append(("layer", f"{TITLES.get(query.statistic, query.statistic)} of {query.layer}"))
        values = [values_at(self._reader(context, experiment, run), step, query) for run in runs]
        return [
            {"title": title, "values": [each.get(name) for each in values]}
            for name, title in titles
            if any(name in each for each in values)
        ]

    def runs_route(self, environ: dict[str, Any], start: Any) -> Any:
        """`GET /runs`."""
        return respond(environ, start, lambda _, context, experiment: {"runs": self.runs_impl(context, experiment)})

    def layers_route(self, environ: dict[str, Any], start: Any) -> Any:
        """`GET /layers?run=...`."""

        def body(request: Request, context: Any, experiment: str) -> dict[str, Any]:
            runs, optimizer = request.args.getlist("run")[:MAX_RUNS], request.args.get("optimizer", "")
            return {"layers": self.layers_impl(context, experiment, runs, optimizer)}

        return respond(environ, start, body)

    def step_route(self, environ: dict[str, Any], start: Any) -> Any:
        """`GET /step?run=...&step=...`."""

        def body(request: Request, context: Any, experiment: str) -> dict[str, Any]:
            runs, step = request.args.getlist("run")[:MAX_RUNS], int(parse_number(request.args, "step", 0))
            curves = self.step_impl(context, experiment, runs, step, parse_query(request.args))
            return {"step": step, "runs": runs, "curves": curves}

        return respond(environ, start, body)

    def help_route(self, environ: dict[str, Any], start: Any) -> Any:
        """`GET /help`."""
        return respond(environ, start, lambda *_: {"help": explanations()})

    def figures_route(self, environ: dict[str, Any], start: Any) -> Any:
        """`GET /figures?run=...&statistic=...`."""

        def body(request: Request, context: Any, experiment: str) -> dict[str, Any]:
            args = request.args
            runs, query = args.getlist("run")[:MAX_RUNS], parse_query(args)
            if not runs:
                raise ValueError("Choose at least one run.")
            return {"figures": self.figures_impl(context, experiment, runs, query, parse_style(args))}

        return respond(environ, start, body)


class GradGuardLoader(base_plugin.TBLoader):  # type: ignore[misc]  # TensorBoard has no types
    """Loads the plugin and makes TensorBoard keep all of its samples.

    By default TensorBoard keeps a few random samples of a tag. The writer bounds their number, so all can be kept.
    """

    def fix_flags(self, flags: Namespace) -> None:
        """Keeps every sample of this plugin (0 means all), unless `--samples_per_plugin` says otherwise."""
        flags.samples_per_plugin.setdefault(metadata.PLUGIN_NAME, 0)

    def load(self, context: base_plugin.TBContext) -> GradGuardPlugin:
        """Creates the plugin."""
        return GradGuardPlugin(context)


def respond(environ: dict[str, Any], start: Any, body: Callable[[Request, Any, str], dict[str, Any]]) -> Any:
    """Responds with the JSON of `body`'s result; an exception becomes `{"error": ...}`, which the tab shows."""
    request, code = Request(environ), 200
    try:
        content = body(request, from_environ(environ), environ.get(WSGI_ENVIRON_KEY, ""))
    except (LookupError, ValueError) as error:
        code, content = 400, {"error": str(error.args[0] if error.args else error)}
    except Exception as error:
        logger.exception("GradGuard's tab failed to answer %s", request.path)
        code, content = 500, {"error": f"{type(error).__name__}: {error}"}
    return http_util.Respond(request, to_json(content), "application/json", code=code)(environ, start)


def to_json(content: dict[str, Any]) -> str:
    """Encodes as JSON; in figures, arrays become base64, and NaN and inf become null."""
    if "figures" not in content:
        import json

        return json.dumps(content)
    from plotly.io.json import to_json_plotly

    text: str = to_json_plotly(content)
    return text


def file_route(read: Callable[[], bytes], content_type: str, expires: int = 0) -> Callable[..., Any]:
    """A route that serves one file, which the browser may cache for `expires` seconds."""

    @wrappers.Request.application
    def serve(request: Request) -> Response:
        response: Response = http_util.Respond(request, read(), content_type, expires=expires)
        return response

    return serve


def parse_query(args: Mapping[str, str]) -> FigureQuery:
    """A `FigureQuery` from a request's arguments, which are all optional."""
    depth = args.get("depth", "auto")
    return FigureQuery(
        statistic=args.get("statistic") or DEFAULT_STATISTIC, optimizer=args.get("optimizer", ""),
        depth=None if depth == "auto" else int(parse_number(args, "depth", 0)), within=args.get("within", ""),
        layer=args.get("layer", ""), low=parse_number(args, "from", -math.inf), high=parse_number(args, "to", math.inf),
    )  # fmt: skip


def parse_style(args: Mapping[str, str]) -> dict[str, Any]:
    """Theme, axes and size of the figures, the size clamped to a sensible range."""
    width, height = parse_number(args, "width", 960), parse_number(args, "height", 720)
    return {
        "dark": args.get("theme") == "dark",
        "full": args.get("full") == "true",
        "width": int(min(max(width, 240), 8000)),
        "height": int(min(max(height, 480), 4000)),
    }


def parse_number(args: Mapping[str, str], name: str, default: float) -> float:
    """A number from a request's arguments.

    Raises:
        ValueError: If it is not a number.
    """
    text = args.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"`{name}` must be a number, got {text!r}.")
    return value


def describe_run(reader: RunReader) -> dict[str, Any]:
    """A run in the list of runs."""
    incidents = reader.incidents()
    return {
        "run": reader.run,
        "optimizers": reader.statistics,
        "state": state_of(incidents, reader.end()),
        "incidents": len(incidents),
        "ended": reader.end() is not None,
        "written": reader.written,
        "problems": reader.index.problems,
    }


def describe_malformed(view: RunView) -> dict[str, Any]:
    """A run that cannot be read, in the list of runs."""
    return {
        "run": view.run,
        "optimizers": {},
        "state": view.state,
        "incidents": 0,
        "ended": False,
        "written": 0.0,
        "problems": view.problems,
    }


def describe_view(view: RunView, symbols: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """What the tab shows around a figure."""
    names = view.heatmap.names if view.heatmap is not None else ()
    return {
        "run": view.run,
        "state": view.state,
        "headline": view.headline,
        "rows": [{"name": name, "layers": count} for name, count in zip(names, view.layer_counts, strict=True)],
        "columns": len(view.heatmap.steps) if view.heatmap is not None else 0,
        "depth": view.query.depth or 0,
        "max_depth": view.max_depth,
        "steps_per_column": view.steps_per_column,
        "extent": list(view.extent),
        "incidents": [
            {key: incident.get(key) for key in ("kind", "x", "x_last", "outcome", "text", "layers")}
            | {"symbol": symbols[incident["kind"]][1], "trials": trials_of(incident)}
            for incident in view.incidents
        ],
        "problems": view.problems,
    }
