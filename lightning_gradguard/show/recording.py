"""Reads the steps that a guard recorded in a run's directory, whatever the run's logger is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.record.incident_log import INCIDENT_LOG, read_incidents
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.step_format import (
    FIELDS,
    FOLDER,
    GRADIENT,
    LOSS_KNOWN,
    RATIO,
    RECORDINGS,
    WEIGHT,
    read_end,
    recorded_files,
    recorded_optimizers,
    tables,
)
from lightning_gradguard.show.layer_series import Curve, LayerSeries, merge_series

#: The statistics of layers that a step may have, and the rows that hold them.
STATISTICS = {"grad_norm": GRADIENT, "update_ratio": RATIO, "param_norm": WEIGHT}


class Recording:
    """The recorded steps and the incident log of one run.

    Args:
        run: The run's directory; of a guard with a name, the guard's.
    """

    def __init__(self, run: Location) -> None:
        self.run, self.folder = run, run / FOLDER
        self._tables: dict[str, list[tuple[dict[str, Any], NDArray[np.float64]]]] = {}

    def _read(self, optimizer: str) -> list[tuple[dict[str, Any], NDArray[np.float64]]]:
        if optimizer not in self._tables:
            self._tables[optimizer] = list(tables(self.folder, optimizer))
        return self._tables[optimizer]

    @property
    def optimizers(self) -> list[str]:
        """Names of the optimizers with recorded steps."""
        return recorded_optimizers(self.folder)

    def size(self, optimizer: str) -> tuple[int, ...]:
        """Bytes in each of an optimizer's files: they change when there are new steps."""
        return tuple(self.folder.size(name) for name in recorded_files(self.folder, optimizer))

    @property
    def written(self) -> float:
        """When a step was written last, in seconds since 1970."""
        return max((self.folder.modified(name) for name in self.folder.names(RECORDINGS)), default=0.0)

    def layers(self, statistic: str, optimizer: str = "") -> LayerSeries | None:
        """A statistic of every layer at every step that has it; None where no step has."""
        what = STATISTICS.get(statistic, -1)
        parts = (to_series(header, rows_about(rows, what)) for header, rows in self._read(optimizer))
        return merge_series(list(parts))

    def curves(self, optimizer: str = "") -> dict[str, Curve]:
        """Loss, learning rate and global gradient norm of every step."""
        parts = [curves_of(len(header["layers"]), rows_about(rows, GRADIENT)) for header, rows in self._read(optimizer)]
        whole = np.concatenate(parts) if parts else np.zeros((0, 4))
        steps, last = last_of_each(whole[:, 0])
        return {
            name: (steps, whole[last, i]) for i, name in enumerate(("loss", "lr", "grad_norm"), start=1) if len(steps)
        }

    def incidents(self) -> list[dict[str, Any]]:
        """Every incident of the log."""
        return [
            {
                **incident.to_dict(), "x": incident.first_step, "x_last": incident.last_step, "text": incident.message,
                "trials": [trial.to_dict() for trial in incident.best_trials],
            }
            for incident in read_incidents(self.run / INCIDENT_LOG)
        ]  # fmt: skip

    def end(self) -> dict[str, Any] | None:
        """How the run ended; None while it is running and after an interruption."""
        return read_end(self.folder)


def find_recordings(root: Location) -> dict[str, Location]:
    """The directories of all runs below `root` with recorded steps, by their paths below it; `.` is `root` itself."""
    runs = {file.parent.parent.path: file.parent.parent for file in root.find(RECORDINGS) if file.parent.name == FOLDER}
    start = len(root.path.rstrip("/")) + 1
    return {path[start:] or ".": run for path, run in runs.items()}


def rows_about(rows: NDArray[np.float64], what: int) -> NDArray[np.float64]:
    """The rows that hold one statistic; the table itself, which may be large, where all do."""
    chosen = rows[:, 1] == what
    return rows if chosen.all() else rows[chosen]


def to_series(header: dict[str, Any], rows: NDArray[np.float64]) -> LayerSeries:
    """Rows of one statistic as a series; of a step that was taken twice the later row counts."""
    steps, last = last_of_each(rows[:, 0])
    values = rows[:, len(FIELDS) : len(FIELDS) + len(header["layers"])]
    values = values if len(last) == len(values) and (last[1:] > last[:-1]).all() else values[last]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log10 = np.empty(values.shape, np.float32)
        np.log10(values, out=log10, dtype=np.float64, casting="same_kind")  # in parts: no second table of float64
    log10[np.isnan(log10)] = math.inf
    types = header.get("types")
    return LayerSeries(tuple(header["layers"]), steps, log10, types if isinstance(types, dict) else {})


def curves_of(count: int, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Step, loss, learning rate and global gradient norm of each row, `[N, 4]`."""
    values = rows[:, len(FIELDS) : len(FIELDS) + count]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        norm = np.sqrt(np.einsum("ij,ij->i", values, values))
    for i in np.flatnonzero(~((norm > 1e-140) & (norm < 1e140))):  # squares that do not fit into float64, NaN, inf
        norm[i] = math.hypot(*values[i].tolist()) if np.isfinite(values[i]).all() else math.nan
    known = rows[:, FIELDS.index("flags")].astype(int) & LOSS_KNOWN
    return np.stack([rows[:, 0], np.where(known, rows[:, 2], math.nan), rows[:, 3], norm], axis=1)


def last_of_each(steps: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """The distinct steps, ascending, and where each occurs last."""
    distinct, place = np.unique(steps[::-1], return_index=True)
    return distinct.astype(np.int64), len(steps) - 1 - place
