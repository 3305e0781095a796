"""Reads a guarded run back through TensorBoard's data provider, for the tab and for the offline report.

A statistic comes back as a *field* of logarithms, steps by layers, in which NaN means "not recorded", inf "NaN or inf"
and -inf "zero".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.data.provider import DataProvider, RunTagFilter

from lightning_gradguard.show import metadata

#: More than a run holds: the writer bounds what there is, so nothing is thinned when it is read.
EVERYTHING = 1_000_000
#: Outcomes from best to worst; an incident brings its run down to its own.
OUTCOMES = ("healthy", "resolved", "open", "unrecoverable")
#: Fields kept in memory, 27 MB each for 1,000 layers and 100,000 steps. Chosen: four runs side by side.
CACHED = 4


@dataclass(frozen=True, eq=False)
class Field:
    """One statistic of one optimizer's layers.

    Args:
        names: The layers, `[L]`, in forward order as far as registration tells it.
        x: Steps, `[T]`, rising.
        log: Log10 of the statistic, `[T, L]` float32.
    """

    names: tuple[str, ...]
    x: NDArray[np.int64]
    log: NDArray[np.float32]


#: Which field -> when it was written last, and the field.
Cache = dict[tuple[str, ...], tuple[list[float], "Field | None"]]


@dataclass
class Index:
    """What a run holds, without its numbers.

    Args:
        statistics: Optimizer -> statistic -> tags and their layers.
        curves: Optimizer -> tag and the names of its curves.
        incidents: The tags with incidents.
        problems: What could not be read, in words.
    """

    statistics: dict[str, dict[str, dict[str, list[str]]]] = field(default_factory=dict)
    curves: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    incidents: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class History:
    """One run's data, read on demand.

    Args:
        provider: TensorBoard's data provider.
        context: The request's context.
        experiment: The experiment's id.
        run: The run's name.
        cache: Fields read before; kept between requests so that zooming is fluid.
    """

    def __init__(
        self, provider: DataProvider, context: Any, experiment: str, run: str, cache: Cache | None = None
    ) -> None:
        self.provider, self.context, self.experiment, self.run = provider, context, experiment, run
        self.cache = {} if cache is None else cache
        self.tags = list_tags(provider, context, experiment, [run]).get(run, {})
        self.index = read_index(self.tags)

    def field(self, statistic: str, optimizer: str = "") -> Field | None:
        """A statistic over all its steps; None where the run has none."""
        tags = self.index.statistics.get(optimizer, {}).get(statistic, {})
        key, state = (self.experiment, self.run, statistic, optimizer), [self.tags[tag].max_wall_time for tag in tags]
        known = self.cache.get(key)
        if known is not None and known[0] == state:
            return known[1]
        read = self._read(list(tags))
        parts = [stack(read.get(tag, []), names, self.index.problems) for tag, names in tags.items()]
        found = merge([part for part in parts if len(part.x)])
        self.cache[key] = (state, found)
        for oldest in list(self.cache)[:-CACHED]:
            self.cache.pop(oldest, None)
        return found

    def curves(self, optimizer: str = "") -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Steps `[T]` and each scalar `[T]` by its name."""
        tag, names = self.index.curves.get(optimizer, ("", []))
        if not tag:
            return np.zeros(0, np.int64), {}
        x, rows = unique_steps(self._read([tag]).get(tag, []), len(names), self.index.problems)
        return x, dict(zip(names, rows.astype(np.float64).T, strict=True))

    def incidents(self) -> list[dict[str, Any]]:
        """The incidents in their last form, by the step at which they started."""
        latest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for incident in self._texts(self.index.incidents):
            if isinstance(incident.get("x"), int) and isinstance(incident.get("kind"), str):
                latest[incident.get("optimizer"), incident["kind"], incident["x"]] = incident
        return sorted(latest.values(), key=lambda incident: incident["x"])

    def end(self) -> dict[str, Any] | None:
        """How the run ended; None while it goes on, or where it was interrupted."""
        return next(iter(reversed(list(self._texts([metadata.END_TAG])))), None)

    def _read(self, tags: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        chosen = RunTagFilter(runs=[self.run], tags=list(tags))
        found = self.provider.read_tensors(
            self.context, experiment_id=self.experiment, plugin_name=metadata.PLUGIN_NAME,
            downsample=EVERYTHING, run_tag_filter=chosen,
        )  # fmt: skip
        return found.get(self.run, {})

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


def list_tags(
    provider: DataProvider, context: Any, experiment: str, runs: Sequence[str] | None = None
) -> Mapping[str, Mapping[str, Any]]:
    """Run -> tag -> what TensorBoard knows of it, for every run with GradGuard data."""
    chosen = RunTagFilter(runs=runs) if runs is not None else None
    listed: Mapping[str, Mapping[str, Any]] = provider.list_tensors(
        context, experiment_id=experiment, plugin_name=metadata.PLUGIN_NAME, run_tag_filter=chosen
    )
    return listed


def read_index(tags: Mapping[str, Any]) -> Index:
    """What the tags of one run say they hold; foreign ones are passed over with a word."""
    index = Index()
    for tag, series in tags.items():
        try:
            content = metadata.decode_content(series.plugin_content)
            if content["what"] == metadata.LAYERS:
                owner = index.statistics.setdefault(str(content["optimizer"]), {})
                owner.setdefault(str(content["statistic"]), {})[tag] = [str(name) for name in content["names"]]
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
    """Steps `[T]` and rows `[T, width]`; what was written last for a step counts (resumed runs write some twice)."""
    rows = {
        datum.step: datum.numpy for datum in data if datum.numpy.shape == (width,) and datum.numpy.dtype.kind == "f"
    }
    if len(rows) < len({datum.step for datum in data}):
        problems.append(f"A vector of {width} numbers was expected; others were left out.")
    steps = sorted(rows)
    table = np.stack([rows[step] for step in steps]) if steps else np.zeros((0, width))
    return np.array(steps, np.int64), table


def stack(data: Sequence[Any], names: Sequence[str], problems: list[str]) -> Field:
    """One tag's vectors as a field."""
    x, rows = unique_steps(data, len(names), problems)
    log = rows.astype(np.float32)
    log[np.isnan(log)] = math.inf
    return Field(tuple(names), x, log)


def merge(parts: Sequence[Field]) -> Field | None:
    """Fields of different layers as one: the rows of the latest first in order, then those it has no more."""
    if len(parts) <= 1:
        return parts[0] if parts else None
    latest_first = sorted(parts, key=lambda part: -part.x[-1])
    names = tuple(dict.fromkeys(name for part in latest_first for name in part.names))
    x = np.unique(np.concatenate([part.x for part in parts]))
    log = np.full((len(x), len(names)), np.nan, np.float32)
    for part in reversed(latest_first):
        columns = np.array([names.index(name) for name in part.names], np.intp)
        log[np.ix_(np.searchsorted(x, part.x), columns)] = part.log
    return Field(names, x, log)


def outcome(incidents: Sequence[Mapping[str, Any]]) -> str:
    """The worst outcome among `incidents`, `"healthy"` without any."""
    ranks = [OUTCOMES.index(i["outcome"]) if i.get("outcome") in OUTCOMES else 2 for i in incidents]
    return OUTCOMES[max(ranks, default=0)]
