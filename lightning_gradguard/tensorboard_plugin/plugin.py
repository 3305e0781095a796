"""Serves the GradGuard tab to TensorBoard: parse, ask `history`, draw, respond.

Imports neither torch nor Lightning, and plotly only when a figure is asked for: TensorBoard loads this at its start.
"""

from __future__ import annotations

import logging
import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response, wrappers

from lightning_gradguard.show import metadata
from lightning_gradguard.show.history import Cache, History, list_tags, outcome
from lightning_gradguard.show.plotly_asset import plotly_js
from lightning_gradguard.show.run_view import DEFAULT_STATISTIC, FigureQuery, RunView, read_view
from lightning_gradguard.show.theme import kind_symbols

STATIC = Path(__file__).parent / "static"
TYPES = {".js": "text/javascript", ".css": "text/css"}
#: Runs side by side at most. Chosen: two fit a laptop's screen, four a wide one.
MAX_RUNS = 4
logger = logging.getLogger(__name__)


class GradGuardPlugin(base_plugin.TBPlugin):
    """The backend of the GradGuard tab; its routes are described in `http_api.md`."""

    plugin_name = metadata.PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._provider = context.data_provider
        self._cache: Cache = {}

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """The routes: exact paths only, so no request can name another file."""
        files = [path for path in STATIC.iterdir() if path.suffix in TYPES]
        return {
            "/runs": self.runs_route,
            "/figures": self.figures_route,
            "/plotly.min.js": file_route(plotly_js, "text/javascript", expires=24 * 3600),
            **{f"/{path.name}": file_route(path.read_bytes, TYPES[path.suffix]) for path in files},
        }

    def is_active(self) -> bool:
        """TensorBoard itself asks the data provider whether there is data for this plug-in."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """The tab's name and entry point."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="GradGuard")

    def runs_impl(self, context: Any, experiment: str) -> list[dict[str, Any]]:
        """Every run with GradGuard data: its optimizers, statistics, outcome and what could not be read."""
        return [
            describe_run(History(self._provider, context, experiment, run))
            for run in sorted(list_tags(self._provider, context, experiment))
        ]

    def figures_impl(
        self, context: Any, experiment: str, runs: Sequence[str], question: FigureQuery, look: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """For each run: its figure, rows, incidents and headline."""
        from lightning_gradguard.show.figures import draw

        known = list_tags(self._provider, context, experiment, runs)
        missing = [run for run in runs if run not in known]
        if missing:
            raise LookupError(f"There is no GradGuard data in run {missing[0]!r}.")
        views = [read_view(History(self._provider, context, experiment, run, self._cache), question) for run in runs]
        figures = draw(views, **look)
        symbols = kind_symbols(incident["kind"] for view in views for incident in view.incidents)
        return [
            {**describe_view(view, symbols), "figure": figure.to_plotly_json()}
            for view, figure in zip(views, figures, strict=True)
        ]

    def runs_route(self, environ: dict[str, Any], start: Any) -> Any:
        """`GET /runs`."""
        return answer(environ, start, lambda _, context, experiment: {"runs": self.runs_impl(context, experiment)})

    def figures_route(self, environ: dict[str, Any], start: Any) -> Any:
        """`GET /figures?run=...&statistic=...`."""

        def body(request: Request, context: Any, experiment: str) -> dict[str, Any]:
            args = request.args
            runs, question = args.getlist("run")[:MAX_RUNS], parse_query(args)
            if not runs:
                raise ValueError("Choose at least one run.")
            return {"figures": self.figures_impl(context, experiment, runs, question, parse_look(args))}

        return answer(environ, start, body)


class GradGuardLoader(base_plugin.TBLoader):
    """Loads the plug-in and makes TensorBoard keep all of its data.

    TensorBoard would keep a random hundredth of the columns; the writer bounds what there is, so all may stay.
    """

    def fix_flags(self, flags: Namespace) -> None:
        """Keeps every sample of this plug-in (0 means all) unless the user asked for something else."""
        flags.samples_per_plugin.setdefault(metadata.PLUGIN_NAME, 0)

    def load(self, context: base_plugin.TBContext) -> GradGuardPlugin:
        """The plug-in."""
        return GradGuardPlugin(context)


def answer(environ: dict[str, Any], start: Any, body: Callable[[Request, Any, str], dict[str, Any]]) -> Any:
    """Responds with `body`'s JSON; an exception in it becomes `{"error": ...}`, which the tab shows."""
    request, code = Request(environ), 200
    try:
        content = body(request, plugin_util.context(environ), plugin_util.experiment_id(environ))
    except (LookupError, ValueError) as error:
        code, content = 400, {"error": str(error.args[0] if error.args else error)}
    except Exception as error:
        logger.exception("GradGuard's tab could not answer %s", request.path)
        code, content = 500, {"error": f"{type(error).__name__}: {error}"}
    return http_util.Respond(request, to_json(content), "application/json", code=code)(environ, start)


def to_json(content: dict[str, Any]) -> str:
    """JSON with typed arrays in base64, and null for what JSON has no number for."""
    if "figures" not in content:
        import json

        return json.dumps(content)
    from plotly.io.json import to_json_plotly

    text: str = to_json_plotly(content)
    return text


def file_route(read: Callable[[], bytes], content_type: str, expires: int = 0) -> Callable[..., Any]:
    """A route that serves one file, which the browser may keep for `expires` seconds."""

    @wrappers.Request.application
    def serve(request: Request) -> Response:
        return http_util.Respond(request, read(), content_type, expires=expires)

    return serve


def parse_query(args: Mapping[str, str]) -> FigureQuery:
    """A `FigureQuery` from a request's arguments; what is missing keeps its default."""
    depth = args.get("depth", "auto")
    return FigureQuery(
        statistic=args.get("statistic") or DEFAULT_STATISTIC, optimizer=args.get("optimizer", ""),
        depth=None if depth == "auto" else int(number(args, "depth", 0)), within=args.get("within", ""),
        layer=args.get("layer", ""), low=number(args, "from", -math.inf), high=number(args, "to", math.inf),
    )  # fmt: skip


def parse_look(args: Mapping[str, str]) -> dict[str, Any]:
    """Theme and size of the figures, within reason."""
    width, height = number(args, "width", 960), number(args, "height", 720)
    return {
        "dark": args.get("theme") == "dark",
        "width": int(min(max(width, 240), 8000)),
        "height": int(min(max(height, 480), 4000)),
    }


def number(args: Mapping[str, str], name: str, default: float) -> float:
    """A request's number.

    Raises:
        ValueError: If it is none.
    """
    text = args.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"`{name}` must be a number, got {text!r}.")
    return value


def describe_run(history: History) -> dict[str, Any]:
    """A run for the list of runs."""
    index, incidents = history.index, history.incidents()
    return {
        "run": history.run,
        "optimizers": {owner: sorted(found) for owner, found in sorted(index.statistics.items())},
        "state": outcome(incidents),
        "incidents": len(incidents),
        "ended": history.end() is not None,
        "problems": index.problems,
    }


def describe_view(view: RunView, symbols: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """What stands beside a figure."""
    names = view.heat.names if view.heat is not None else ()
    return {
        "run": view.run,
        "state": view.state,
        "headline": view.headline,
        "rows": [{"name": name, "layers": count} for name, count in zip(names, view.counts, strict=True)],
        "columns": len(view.heat.x) if view.heat is not None else 0,
        "depth": view.question.depth or 0,
        "max_depth": view.max_depth,
        "binned": view.binned,
        "extent": list(view.extent),
        "incidents": [
            {key: incident.get(key) for key in ("kind", "x", "x_last", "outcome", "text", "layers")}
            | {"symbol": symbols[incident["kind"]][1]}
            for incident in view.incidents
        ],
        "problems": view.problems,
    }
