"""Reads a recorded run through TensorBoard's data provider, for the tab and for the offline report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.data.provider import DataProvider, RunTagFilter

from lightning_gradguard.record.conforming import conforms
from lightning_gradguard.show import metadata

#: Passed as TensorBoard's `downsample`; the writer keeps far fewer samples of a tag, so all of them are read.
ALL_SAMPLES = 1_000_000
#: Outcomes from best to worst. A run has the worst outcome of its incidents.
OUTCOMES = ("healthy", "resolved", "recovered", "open", "degraded", "unrecoverable")
#: State of a run whose data cannot be read.
MALFORMED = "malformed"
STATES = (*OUTCOMES, MALFORMED)
#: Layer statistics kept in memory: as many as runs are shown side by side. Each takes 27 MB for 1,000 layers and
#: 100,000 steps.
CACHE_SIZE = 4
#: What the tab reads of an incident.
INCIDENT = {
    "kind": str, "optimizer": str, "x": int, "x_last": int | None, "outcome": str, "text": str,
    "layers": list[str], "actions": list[str],
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class LayerSeries:
    """One statistic of one optimizer's layers over the steps.

    Args:
        names: The layers, `[L]`, in the order of registration.
        steps: Steps, `[T]`, ascending.
        log10: Log10 of the statistic, `[T, L]` float32. NaN means "not recorded", inf means "NaN or inf", and -inf
            means "zero".
    """

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    log10: NDArray[np.float32]


#: (experiment, run, statistic, optimizer) -> times of the last writes, and the series.
Cache = dict[tuple[str, ...], tuple[list[float], "LayerSeries | None"]]


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
    """Reads one run on demand.

    Args:
        provider: TensorBoard's data provider.
        context: The request's context.
        experiment: The experiment's id.
        run: The run's name.
        cache: Layer statistics read before. The tab keeps it between requests, which makes zooming fast.
    """

    def __init__(
        self, provider: DataProvider, context: Any, experiment: str, run: str, cache: Cache | None = None
    ) -> None:
        self.provider, self.context, self.experiment, self.run = provider, context, experiment, run
        self.cache = {} if cache is None else cache
        self.tags = list_tags(provider, context, experiment, [run]).get(run, {})
        self.index = read_index(self.tags)

    def layers(self, statistic: str, optimizer: str = "") -> LayerSeries | None:
        """A statistic of every layer over all steps; None where the run does not have it."""
        tags = self.index.statistics.get(optimizer, {}).get(statistic, {})
        key, written = (self.experiment, self.run, statistic, optimizer), [self.tags[tag].max_wall_time for tag in tags]
        known = self.cache.get(key)
        if known is not None and known[0] == written:
            return known[1]
        data = self._read(list(tags))
        parts = [to_series(data.get(tag, []), names, self.index.problems) for tag, names in tags.items()]
        series = merge_series([part for part in parts if len(part.steps)])
        self.cache[key] = (written, series)
        for oldest in list(self.cache)[:-CACHE_SIZE]:
            self.cache.pop(oldest, None)
        return series

    def curves(self, optimizer: str = "") -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Steps `[T]`, and each scalar `[T]` by its name."""
        tag, names = self.index.curves.get(optimizer, ("", []))
        if not tag:
            return np.zeros(0, np.int64), {}
        steps, rows = unique_steps(self._read([tag]).get(tag, []), len(names), self.index.problems)
        return steps, dict(zip(names, rows.astype(np.float64).T, strict=True))

    def incidents(self) -> list[dict[str, Any]]:
        """The latest state of every incident, ordered by first step and kind."""
        latest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for incident in self._texts(self.index.incidents):
            if wrong := [name for name, hint in INCIDENT.items() if not conforms(incident.get(name), hint)]:
                self.index.problems.append(f"An incident is not readable: wrong type of {', '.join(wrong)}.")
            else:
                latest[incident["optimizer"], incident["kind"], incident["x"]] = incident
        return sorted(latest.values(), key=lambda incident: (incident["x"], incident["kind"]))

    def end(self) -> dict[str, Any] | None:
        """How the run ended; None while it is running and after an interruption."""
        return next(iter(reversed(list(self._texts([metadata.END_TAG])))), None)

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


def list_runs(provider: DataProvider, context: Any, experiment: str) -> list[str]:
    """Every run with GradGuard data, sorted, and every run whose tags cannot be listed."""
    try:
        return sorted(list_tags(provider, context, experiment))
    except Exception:  # of one run; which one, each run has to tell
        runs = [run.run_name for run in provider.list_runs(context, experiment_id=experiment)]
        return sorted(run for run in runs if might_have_data(provider, context, experiment, run))


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


def merge_series(parts: Sequence[LayerSeries]) -> LayerSeries | None:
    """Merges series with different layers: the layers of the latest one first, then those that it no longer has."""
    if len(parts) <= 1:
        return parts[0] if parts else None
    latest_first = sorted(parts, key=lambda part: -part.steps[-1])
    names = tuple(dict.fromkeys(name for part in latest_first for name in part.names))
    steps = np.unique(np.concatenate([part.steps for part in parts]))
    log10 = np.full((len(steps), len(names)), np.nan, np.float32)
    for part in reversed(latest_first):
        columns = np.array([names.index(name) for name in part.names], np.intp)
        log10[np.ix_(np.searchsorted(steps, part.steps), columns)] = part.log10
    return LayerSeries(names, steps, log10)


def trials_of(incident: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an experiment about an incident has tried, the best first; empty without one."""
    trials = incident.get("trials")
    return [trial for trial in trials if isinstance(trial, dict)] if isinstance(trials, list) else []


def worst_outcome(incidents: Sequence[Mapping[str, Any]]) -> str:
    """The worst outcome among `incidents`; `"healthy"` if there are none."""
    return worst_state([i["outcome"] if i.get("outcome") in OUTCOMES else "open" for i in incidents])


def state_of(incidents: Sequence[Mapping[str, Any]], end: Mapping[str, Any] | None) -> str:
    """What a run has come to: as it was written at its end; the worst outcome of its incidents while it goes on."""
    written = (end or {}).get("outcome")
    return str(written) if written in OUTCOMES else worst_outcome(incidents)


def worst_state(states: Sequence[str]) -> str:
    """The worst of `states`; `"healthy"` if there are none."""
    return max(states, key=STATES.index, default=STATES[0])
