"""RECORD: every step on disk, so that `gradguard replay` can run other detectors over a run that has ended.

Two files for each optimizer and set of layers. `steps.0000.f64` holds a line of JSON with what does not change, then
rows of float64: one a step, and three more for a step that brings a sample of weights and updates. `steps.0000.jsonl`
holds a line of JSON for each step with more than numbers: what the remedies did, activation statistics, the samples of
a suspicious batch. A run resumed from a checkpoint begins new files; later rows of a step replace earlier ones. A torn
or foreign row or line costs that row or line alone. An object store, whose files cannot be appended to, gets new files
for every thousand rows.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from lightning_gradguard.collect.activation_stats import ActivationRecord, ActivationStats
from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.collect.layers import Layers
from lightning_gradguard.collect.loss_calls import LossCall
from lightning_gradguard.collect.stats import Comparison, GradStats
from lightning_gradguard.findings import (
    Action,
    Finding,
    Origin,
    Response,
    Restoration,
    StepOutcome,
    StepReport,
    TrialEvent,
)
from lightning_gradguard.modules.activations import Traits
from lightning_gradguard.record.conforming import conforms
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.packing import pack, unpack
from lightning_gradguard.record.step_format import (
    CANCELLED,
    FIELDS,
    GRADIENT,
    KNOWN_GOOD,
    LOSS_KNOWN,
    OVERFLOW,
    RATIO,
    SNAPSHOT,
    TRAINABLE,
    VERSION,
    WEIGHT,
    is_header,
    number_of,
    read_header,
    recorded_files,
    sound_rows,
    stem_of,
    whole_rows,
)
from lightning_gradguard.tensors.norms import Floats

#: Bytes after which a run is recorded no further: 1,000 layers for 33,000 steps, 20 layers for 1.3 million. Chosen.
MOST_BYTES = 256 * 2**20
#: Rows that are kept in memory while they cannot be written. Chosen.
MOST_WAITING = 10_000
#: Rows in one file of an object store. Chosen.
REMOTE_ROWS = 1000
#: What is recorded of an outcome by name, beside its flags and responses.
TOLD = ("restored", "model_changed", "objective_changed", "trial", "stopped_by", "stop_reason", "restoration")
NOTHING_DONE = StepOutcome()


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """One step as it was recorded.

    Args:
        stats: What was measured.
        outcome: What was done, and what came of it; without the factors on gradients and learning rate.
        origin: When and where it was, if an incident began with it.
    """

    stats: GradStats
    outcome: StepOutcome
    origin: Origin | None = None


class Recorder:
    """Appends the steps of one optimizer to files in `folder`.

    Args:
        folder: Where; made when the first row is written.
        optimizer: The optimizer's index when there are several; otherwise empty.
    """

    def __init__(self, folder: str | os.PathLike[str], optimizer: str = "") -> None:
        self.folder, self.stem = Location(folder), stem_of(optimizer)
        self.written = 0
        self._key: tuple[Any, ...] = ()  # what one file is about
        self._header = ""
        self._rows: list[Floats] = []
        self._lines: list[str] = []
        self._name: str | None = None  # of the file that is appended to

    def add(self, report: StepReport, origin: Origin | None = None) -> None:
        """Keeps one step in memory until `flush`; with its `origin` if an incident began."""
        stats = report.stats
        key = (stats.layers.names, stats.buffers, stats.total_steps, stats.multiple_optimizers, stats.eps)
        if key != self._key:
            self.close()
            self._key, self._header, self._name = key, header_of(stats), None
        if self.written >= MOST_BYTES:
            return
        self._rows += rows_of(stats, report.outcome)
        if extra := extra_of(stats, report.outcome, origin):
            self._lines.append(json.dumps({"step": stats.step, **extra}))
        if len(self._rows) > MOST_WAITING:
            del self._rows[:-MOST_WAITING]

    def flush(self) -> None:
        """Writes what is kept, to an object store once it is enough for a file."""
        if self.folder.is_local or len(self._rows) >= REMOTE_ROWS:
            self.close()

    def close(self) -> None:
        """Writes what is kept; after a failure it is kept, and written into new files the next time."""
        if not self._rows:
            return
        rows, lines = np.stack(self._rows).tobytes(), "".join(f"{line}\n" for line in self._lines).encode()
        name, self._name = self._name, None
        if name is None or not (self.folder / f"{name}.f64").exists():  # somebody may have deleted it
            name, rows = self._new_name(), self._header.encode() + b"\n" + rows
        (self.folder / f"{name}.f64").append(rows)
        if lines:
            (self.folder / f"{name}.jsonl").append(lines)
        self._rows, self._lines, self._name = [], [], name if self.folder.is_local else None
        self.written += len(rows) + len(lines)

    def _new_name(self) -> str:
        taken = [number_of(name) for name in self.folder.names(f"{self.stem}.*")]
        return f"{self.stem}.{max(taken, default=-1) + 1:04d}"


def header_of(stats: GradStats) -> str:
    """What does not change from step to step, as JSON."""
    return json.dumps(
        {
            "version": VERSION,
            "layers": list(stats.layers.names),
            "numel": stats.layers.numel.tolist(),
            "matrix": stats.layers.matrix.tolist(),
            "types": dict(stats.layers.types),
            "buffers": list(stats.buffers),
            "total_steps": stats.total_steps,
            "multiple_optimizers": stats.multiple_optimizers,
            "eps": stats.eps,
        }
    )


def rows_of(stats: GradStats, outcome: StepOutcome) -> list[Floats]:
    """One step as flat rows."""
    flags = OVERFLOW * stats.scaler_overflow + LOSS_KNOWN * (stats.loss is not None)
    flags += CANCELLED * outcome.cancelled + SNAPSHOT * outcome.snapshot
    flags += KNOWN_GOOD * stats.weights_known_good
    loss = math.nan if stats.loss is None else stats.loss
    layers = {
        GRADIENT: stats.grad_norm, WEIGHT: stats.param_norm, RATIO: stats.update_ratio, TRAINABLE: stats.trainable,
    }  # fmt: skip
    return [
        np.concatenate([[stats.step, what, loss, stats.lr, flags], values, stats.buffer_norm])
        for what, values in layers.items()
        if values is not None
    ]


def extra_of(stats: GradStats, outcome: StepOutcome, origin: Origin | None = None) -> dict[str, Any]:
    """What a step has beside its numbers; empty for most."""
    told = {name: getattr(outcome, name) for name in TOLD if getattr(outcome, name) != getattr(NOTHING_DONE, name)}
    told["responses"] = tuple(response for response in outcome.responses if response.remedies) or None
    told |= {"activation_stats": stats.activation_stats, "batch_stats": stats.batch_stats, "origin": origin}
    told |= {"nonfinite_state": stats.nonfinite_state or None, "first_nonfinite": stats.first_nonfinite or None}
    told["recheck"] = stats.recheck
    told["comparison"] = stats.comparison
    return {name: pack(value) for name, value in told.items() if value is not None}


def read_steps(folder: str | os.PathLike[str], optimizer: str = "") -> list[RecordedStep]:
    """The recorded steps of one optimizer in order, each once.

    Files that cannot be read are left out, with a warning.

    Raises:
        FileNotFoundError: If nothing was recorded there.
        ValueError: If the recording has another format.
    """
    folder = Location(folder)
    files = recorded_files(folder, optimizer)
    steps = {step.stats.step: step for name in files for step in reversed(list(_read_file(folder, name)))}
    if not steps:
        pattern = f"{stem_of(optimizer)}.*.f64"
        raise FileNotFoundError(f"No recorded steps `{pattern}` in {folder}; was the run trained with GradGuard?")
    return [steps[number] for number in sorted(steps)]


def _read_file(folder: Location, name: str) -> Iterator[RecordedStep]:
    """The steps of one file, last first: a step's samples follow it."""
    head, _, body = (folder / name).read().partition(b"\n")
    header = read_header(head)
    if header.get("version", VERSION) != VERSION:
        raise ValueError(f"{folder / name} has format {header['version']}, this release reads {VERSION}.")
    if not is_header(header):
        warnings.warn(f"{folder / name} has no readable header: its steps are left out.", stacklevel=2)
        return
    layers = Layers(tuple(header["layers"]), np.array(header["numel"]), np.array(header["matrix"], bool))
    count, buffers = len(layers), tuple(header["buffers"])
    fixed = {name: header[name] for name in ("total_steps", "multiple_optimizers")}
    fixed["eps"] = header.get("eps", 0.0)
    rows = whole_rows(body, header)
    extras = _read_extras(folder / f"{name.removesuffix('.f64')}.jsonl")
    samples: dict[int, Floats] = {}
    for row, sound in zip(rows[::-1], sound_rows(rows)[::-1], strict=True):
        if not sound:
            samples = {}
            continue
        step, what, loss, lr = int(row[0]), int(row[1]), float(row[2]), float(row[3])
        flags, values, buffer_norm = int(row[4]), row[len(FIELDS) : len(FIELDS) + count], row[len(FIELDS) + count :]
        if what != GRADIENT:
            samples[what] = values
            continue
        extra = extras.get(step, NO_EXTRAS)
        sampled, trainable = {WEIGHT, RATIO} <= samples.keys(), samples.get(TRAINABLE)
        stats = GradStats(
            step=step, layers=layers, grad_norm=values, loss=loss if flags & LOSS_KNOWN else None, lr=lr,
            scaler_overflow=bool(flags & OVERFLOW), weights_known_good=bool(flags & KNOWN_GOOD), buffers=buffers,
            buffer_norm=buffer_norm, **fixed,
            param_norm=samples[WEIGHT] if sampled else None,
            update_ratio=samples[RATIO] if sampled else None,
            trainable=trainable.astype(bool) if sampled and trainable is not None else None,
            **extra.measured,
        )  # fmt: skip
        samples = {}
        flagged = StepOutcome(cancelled=bool(flags & CANCELLED), snapshot=bool(flags & SNAPSHOT))
        yield RecordedStep(stats, replace(flagged, **extra.outcome), extra.origin)


class Extras(NamedTuple):
    """What a step has beside its numbers: fields of its `GradStats` and of its `StepOutcome`, and its origin."""

    measured: dict[str, Any]
    outcome: dict[str, Any]
    origin: Origin | None


NO_EXTRAS = Extras({}, {}, None)


def _read_extras(path: Location) -> dict[int, Extras]:
    """What steps have beside their numbers, by step; a torn or foreign line is left out."""
    extras: dict[int, Extras] = {}
    for line in path.read().split(b"\n"):
        try:
            plain = unpack(json.loads(line))
            origin = Origin(**plain["origin"]) if "origin" in plain else None
            extra = Extras(measured_of(plain), outcome_of(plain), origin)
            sound = conforms(plain["step"], int) and conforms(origin, Origin | None)
            sound = sound and conforms(StepOutcome(**extra.outcome), StepOutcome)
            if sound and all(conforms(value, MEASURED[name]) for name, value in extra.measured.items()):
                extras[plain["step"]] = extra
        except Exception:  # whatever it was, it was not written by `Recorder`
            continue
    return extras


#: Fields of `GradStats` that are more than numbers.
MEASURED = {
    "activation_stats": ActivationStats, "batch_stats": BatchStats, "nonfinite_state": tuple[str, ...],
    "first_nonfinite": tuple[str, ...], "recheck": tuple[float, float], "comparison": Comparison,
}  # fmt: skip


def measured_of(plain: dict[str, Any]) -> dict[str, Any]:
    """Fields of `GradStats` as they were recorded."""
    measured: dict[str, Any] = {
        name: plain[name] for name in ("nonfinite_state", "first_nonfinite", "recheck", "comparison") if name in plain
    }
    if "activation_stats" in plain:
        measured["activation_stats"] = activation_stats_of(plain["activation_stats"])
    if "batch_stats" in plain:
        measured["batch_stats"] = BatchStats(**plain["batch_stats"])
    return measured


def activation_stats_of(plain: dict[str, Any]) -> ActivationStats:
    """Activation statistics as they were recorded."""
    records = [ActivationRecord(**{**record, "traits": Traits(**record["traits"])}) for record in plain["activations"]]
    losses = tuple(LossCall(**call) for call in plain.get("losses", ()))
    return ActivationStats(**{**plain, "activations": tuple(records), "losses": losses})


def outcome_of(plain: dict[str, Any]) -> dict[str, Any]:
    """Fields of `StepOutcome` as they were recorded, beside the flags."""
    told = {name: plain[name] for name in TOLD if name in plain}
    if "trial" in told:
        told["trial"] = TrialEvent.from_dict(told["trial"])
    if "restoration" in told:
        restoration = told["restoration"]
        told["restoration"] = Restoration(**{**restoration, "finding": Finding(**restoration["finding"])})
    if "responses" in plain:
        told["responses"] = tuple(
            Response(response["kind"], response["remedies"], tuple(Action(**action) for action in response["actions"]))
            for response in plain["responses"]
        )
    return told
