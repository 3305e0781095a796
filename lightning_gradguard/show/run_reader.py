"""Reads a recorded run through TensorBoard's data provider, for the tab and for the offline report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.data.provider import DataProvider, RunTagFilter

from lightning_gradguard.record.conforming import conforms
from lightning_gradguard.record.location import Location
from lightning_gradguard.show import metadata
from lightning_gradguard.show.layer_series import Curve, LayerSeries, merge_series
from lightning_gradguard.show.recording import STATISTICS, Recording

#: Passed as TensorBoard's `downsample`; the writer keeps far fewer samples of a tag, so all of them are read.
ALL_SAMPLES = 1_000_000
#: Outcomes from best to worst. A run has the worst outcome of its incidents.
OUTCOMES = ("healthy", "resolved", "recovered", "open", "degraded", "unrecoverable")
#: State of a run whose data cannot be read.
MALFORMED = "malformed"
STATES = (*OUTCOMES, MALFORMED)
#: Layer statistics and sets of curves kept in memory: four of each run, for as many runs as are shown side by side. A
#: statistic takes 40 MB for 1,000 layers and 10,000 steps.
CACHE_SIZE = 16
#: What the tab reads of an incident.
INCIDENT = {
    "kind": str, "optimizer": str, "x": int, "x_last": int | None, "outcome": str, "text": str,
    "layers": list[str], "actions": list[str],
}  # fmt: skip


#: (experiment, run, what, optimizer) -> what tells a later state of the files from this one, and what was read.
Cache = dict[tuple[str, ...], tuple[Any, Any]]


@dataclass
class RunIndex:
    """What a run contains, without the numbers.

    Args:
        statistics: Optimizer -> statistic -> tag -> layer names.
        curves: Optimizer -> tag and names of its curves.
        incidents: The tags that hold incidents.
        problems: What could not be read, one sentence each.
    """

    statistics: dict[str, dict[str, dict[str, list[str]]]] = field(default_factory=dict)
    curves: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    incidents: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class RunReader:
    """Reads one run on demand: every step from its recording, and from its event files what is not recorded.

    Args:
        provider: TensorBoard's data provider.
        context: The request's context.
        experiment: The experiment's id.
        run: The run's name.
        cache: What was read before. The tab keeps it between requests, which makes zooming fast.
        folder: The run's directory; None where it is not known.
    """

    def __init__(
        self,
        provider: DataProvider,
        context: Any,
        experiment: str,
        run: str,
        cache: Cache | None = None,
        folder: Location | None = None,
    ) -> None:
        self.provider, self.context, self.experiment, self.run = provider, context, experiment, run
        self.cache = {} if cache is None else cache
        self.recording = Recording(folder) if folder is not None else None
        self.tags = list_tags(provider, context, experiment, [run]).get(run, {})
        self.index = read_index(self.tags)

    @property
    def statistics(self) -> dict[str, list[str]]:
        """The statistics that each optimizer may have."""
        names = {name: set(tags) for name, tags in self.index.statistics.items()}
        names |= {name: set() for name in self.index.curves if name not in names}
        for optimizer in self.recording.optimizers if self.recording is not None else ():
            names[optimizer] = names.get(optimizer, set()) | set(STATISTICS)
        return {optimizer: sorted(names[optimizer]) for optimizer in sorted(names)}

    @property
    def written(self) -> float:
        """When data was written last, in seconds since 1970."""
        recorded = self.recording.written if self.recording is not None else 0.0
        return max([recorded, *(float(series.max_wall_time) for series in self.tags.values())])

    def paths(self, optimizer: str = "") -> list[str]:
        """The names of all layers, and of the modules that contain them."""
        series = self.layers("grad_norm", optimizer)
        names = series.names if series is not None else ()
        return list(dict.fromkeys(path for name in names for path in (*paths_to(name), name)))

    def layers(self, statistic: str, optimizer: str = "") -> LayerSeries | None:
        """A statistic of every layer over all steps; None where the run does not have it."""
        tags = self.index.statistics.get(optimizer, {}).get(statistic, {})
        state = [[self.tags[tag].max_wall_time for tag in tags], self._recorded_bytes(optimizer)]
        series: LayerSeries | None = self._cached(
            state, lambda: self._read_layers(tags, statistic, optimizer), statistic, optimizer
        )
        return series

    def _read_layers(self, tags: Mapping[str, list[str]], statistic: str, optimizer: str) -> LayerSeries | None:
        recording = self._recording_of(optimizer)
        recorded = recording.layers(statistic, optimizer) if recording is not None else None
        last = int(recorded.steps[-1]) if recorded is not None else -1
        later = {tag: names for tag, names in tags.items() if self.tags[tag].max_step > last}
        data = self._read(list(later)) if later else {}
        parts = [to_series(data.get(tag, []), names, self.index.problems) for tag, names in later.items()]
        return merge_series([*filter(None, [recorded]), *(part.after(last) for part in parts)])

    def curves(self, optimizer: str = "") -> dict[str, Curve]:
        """Each scalar by its name, over all steps that have it."""
        tag, _ = self.index.curves.get(optimizer, ("", []))
        state = [self.tags[tag].max_wall_time if tag else None, self._recorded_bytes(optimizer)]
        curves: dict[str, Curve] = self._cached(state, lambda: self._read_curves(optimizer), "curves", optimizer)
        return curves

    def _read_curves(self, optimizer: str) -> dict[str, Curve]:
        written = self._written_curves(optimizer)
        recorded = self._recorded_curves(optimizer) if self._recording_of(optimizer) is not None else {}
        return {**written, **{name: continued(curve, written.get(name)) for name, curve in recorded.items()}}

    def _written_curves(self, optimizer: str) -> dict[str, Curve]:
        """The curves in the event files."""
        tag, names = self.index.curves.get(optimizer, ("", []))
        if not tag:
            return {}
        state, read = self.tags[tag].max_wall_time, lambda: self._read_written_curves(tag, names)
        curves: dict[str, Curve] = self._cached(state, read, "written", optimizer)
        return curves

    def _read_written_curves(self, tag: str, names: list[str]) -> dict[str, Curve]:
        steps, rows = unique_steps(self._read([tag]).get(tag, []), len(names), self.index.problems)
        return {name: (steps, column) for name, column in zip(names, rows.astype(np.float64).T, strict=True)}

    def _recording_of(self, optimizer: str) -> Recording | None:
        """The recording of an optimizer's steps, if they are counted as in the event files.

        A recording counts the optimizer's steps, TensorBoard those of the Trainer. They are the same if both have the
        same curve.
        """
        recorded, written = self._recorded_curves(optimizer), self._written_curves(optimizer)
        usable = recorded and ("grad_norm" not in written or agree(recorded["grad_norm"], written["grad_norm"]))
        return self.recording if usable else None

    def _recorded_curves(self, optimizer: str) -> dict[str, Curve]:
        state, recording = self._recorded_bytes(optimizer), self.recording
        if not state or recording is None:
            return {}
        curves: dict[str, Curve] = self._cached(state, lambda: recording.curves(optimizer), "recorded", optimizer)
        return curves

    def _recorded_bytes(self, optimizer: str) -> tuple[int, ...]:
        return self.recording.size(optimizer) if self.recording is not None else ()

    def _cached(self, state: Any, read: Callable[[], Any], what: str, optimizer: str) -> Any:
        key = (self.experiment, self.run, what, optimizer)
        known = self.cache.pop(key, None)
        self.cache[key] = known if known is not None and known[0] == state else (state, read())
        for oldest in list(self.cache)[:-CACHE_SIZE]:
            self.cache.pop(oldest, None)
        return self.cache[key][1]

    def incidents(self) -> list[dict[str, Any]]:
        """The latest state of every incident, ordered by first step and kind."""
        latest: dict[tuple[Any, ...], dict[str, Any]] = {}
        if not self.index.incidents and self.recording is not None:
            return self.recording.incidents()
        for incident in self._texts(self.index.incidents):
            if wrong := [name for name, hint in INCIDENT.items() if not conforms(incident.get(name), hint)]:
                self.index.problems.append(f"An incident is not readable: wrong type of {', '.join(wrong)}.")
            else:
                latest[incident["optimizer"], incident["kind"], incident["x"]] = incident
        return sorted(latest.values(), key=lambda incident: (incident["x"], incident["kind"]))

    def end(self) -> dict[str, Any] | None:
        """How the run ended; None while it is running and after an interruption."""
        written = next(iter(reversed(list(self._texts([metadata.END_TAG])))), None)
        return written if written is not None or self.recording is None else self.recording.end()

    def _read(self, tags: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        data: Mapping[str, Mapping[str, Sequence[Any]]] = self.provider.read_tensors(
            self.context, experiment_id=self.experiment, plugin_name=metadata.PLUGIN_NAME,
            downsample=ALL_SAMPLES, run_tag_filter=RunTagFilter(runs=[self.run], tags=list(tags)),
        )  # fmt: skip
        return data.get(self.run, {})

    def _texts(self, tags: Sequence[str]) -> Iterator[dict[str, Any]]:
        if not tags:
            return
        for tag, datum in ((tag, datum) for tag, data in self._read(tags).items() for datum in data):
            try:
                fields = json.loads(datum.numpy.item())
            except (ValueError, TypeError, AttributeError):
                fields = None
            if isinstance(fields, dict):
                yield fields
            else:
                self.index.problems.append(f"{tag} at step {datum.step} is not readable.")


def paths_to(name: str) -> list[str]:
    """The modules that contain a layer, outermost first.

    Example:
        >>> paths_to("encoder.layer.0")
        ['encoder', 'encoder.layer']
    """
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def list_runs(provider: DataProvider, context: Any, experiment: str) -> list[str]:
    """Every run with GradGuard data, and every run whose tags cannot be listed."""
    try:
        return list(list_tags(provider, context, experiment))
    except Exception:  # of one run; which one, each run has to tell
        runs = [run.run_name for run in provider.list_runs(context, experiment_id=experiment)]
        return [run for run in runs if might_have_data(provider, context, experiment, run)]


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which `version_2` comes before `version_10`.

    Example:
        >>> sorted(["version_10", "version_2"], key=natural)
        ['version_2', 'version_10']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def might_have_data(provider: DataProvider, context: Any, experiment: str, run: str) -> bool:
    """Whether a run has GradGuard data; True where that cannot be told."""
    try:
        return bool(list_tags(provider, context, experiment, [run]))
    except Exception:
        return True


def list_tags(
    provider: DataProvider, context: Any, experiment: str, runs: Sequence[str] | None = None
) -> Mapping[str, Mapping[str, Any]]:
    """Run -> tag -> TensorBoard's metadata of it, for every run with GradGuard data."""
    chosen = RunTagFilter(runs=runs) if runs is not None else None
    listed: Mapping[str, Mapping[str, Any]] = provider.list_tensors(
        context, experiment_id=experiment, plugin_name=metadata.PLUGIN_NAME, run_tag_filter=chosen
    )
    return listed


def read_index(tags: Mapping[str, Any]) -> RunIndex:
    """What a run contains, from the metadata of its tags; unreadable ones are listed in `problems`."""
    index = RunIndex()
    for tag, series in tags.items():
        try:
            content = metadata.decode_content(series.plugin_content)
            if content["what"] == metadata.LAYERS:
                by_statistic = index.statistics.setdefault(str(content["optimizer"]), {})
                by_statistic.setdefault(str(content["statistic"]), {})[tag] = [str(name) for name in content["names"]]
            elif content["what"] == metadata.CURVES:
                index.curves[str(content["optimizer"])] = (tag, [str(name) for name in content["names"]])
            elif content["what"] == metadata.INCIDENTS:
                index.incidents.append(tag)
        except (ValueError, KeyError, TypeError) as error:
            index.problems.append(f"{tag} is not readable: {error}")
    return index


def continued(curve: Curve, other: Curve | None) -> Curve:
    """A curve, and after its end another one."""
    if other is None or not len(curve[0]):
        return curve if other is None else other
    rest = int(np.searchsorted(other[0], curve[0][-1], side="right"))
    return np.concatenate([curve[0], other[0][rest:]]), np.concatenate([curve[1], other[1][rest:]])


def agree(one: Curve, other: Curve) -> bool:
    """Whether two curves have steps in common, and the same values there."""
    _, here, there = np.intersect1d(one[0], other[0], assume_unique=True, return_indices=True)
    return len(here) > 0 and bool(np.allclose(one[1][here], other[1][there], rtol=1e-4, equal_nan=True))


def unique_steps(
    data: Sequence[Any], width: int, problems: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Steps `[T]` and rows `[T, width]`.

    A resumed run writes some steps twice; the later one counts.
    """
    rows = {
        datum.step: datum.numpy for datum in data if datum.numpy.shape == (width,) and datum.numpy.dtype.kind == "f"
    }
    if len(rows) < len({datum.step for datum in data}):
        problems.append(f"Expected vectors of {width} numbers; others were left out.")
    steps = sorted(rows)
    table = np.stack([rows[step] for step in steps]) if steps else np.zeros((0, width))
    return np.array(steps, np.int64), table


def to_series(data: Sequence[Any], names: Sequence[str], problems: list[str]) -> LayerSeries:
    """The vectors of one tag as a series."""
    steps, rows = unique_steps(data, len(names), problems)
    log10 = rows.astype(np.float32)
    log10[np.isnan(log10)] = math.inf
    return LayerSeries(tuple(names), steps, log10)


def trials_of(incident: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an experiment about an incident has tried, the best first; empty without one."""
    trials = incident.get("trials")
    return [trial for trial in trials if isinstance(trial, dict)] if isinstance(trials, list) else []


def worst_outcome(incidents: Sequence[Mapping[str, Any]]) -> str:
    """The worst outcome among `incidents`; `"healthy"` if there are none."""
    return worst_state([i["outcome"] if i.get("outcome") in OUTCOMES else "open" for i in incidents])


def state_of(incidents: Sequence[Mapping[str, Any]], end: Mapping[str, Any] | None) -> str:
    """The outcome of a run: as it was written at its end; the worst outcome of its incidents while it goes on."""
    written = (end or {}).get("outcome")
    return str(written) if written in OUTCOMES else worst_outcome([i for i in incidents if not i.get("is_notice")])


def worst_state(states: Sequence[str]) -> str:
    """The worst of `states`; `"healthy"` if there are none."""
    return max(states, key=STATES.index, default=STATES[0])
