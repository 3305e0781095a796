"""RECORD: every step on disk, so that `gradguard replay` can run other detectors over a run that has ended.

Two files for each optimizer and set of layers. `steps.0000.f64` holds a line of JSON with what does not change, then
rows of float64: one a step, and three more for a step that brings a sample of weights and updates. `steps.0000.jsonl`
holds a line of JSON for each step with more than numbers: what the remedies did, activation statistics, the samples of
a suspicious batch. A run resumed from a checkpoint begins new files; later rows of a step replace earlier ones. A torn
row or line costs that row or line alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gradguard.collect.activation_stats import ActivationRecord, ActivationStats
from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.collect.layers import Layers
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import Action, Response, StepOutcome, StepReport, TrialEvent
from lightning_gradguard.modules.activations import Traits
from lightning_gradguard.record.packing import pack, unpack
from lightning_gradguard.tensors.norms import Floats

FOLDER = "gradguard"
VERSION = 2
#: Bytes after which a run is recorded no further: 1,000 layers for 33,000 steps, 20 layers for 1.3 million. Chosen.
MOST_BYTES = 256 * 2**20
#: Rows that are kept in memory while they cannot be written. Chosen.
MOST_WAITING = 10_000
#: A row begins with these; then the layers' values, whose meaning `what` tells, and the buffers' norms.
FIELDS = ("step", "what", "loss", "lr", "flags")
GRADIENT, WEIGHT, RATIO, TRAINABLE = 0, 1, 2, 3
OVERFLOW, LOSS_KNOWN, CANCELLED, IN_TRIAL, SNAPSHOT = 1, 2, 4, 8, 16
#: What is recorded of an outcome by name, beside its flags and responses.
TOLD = ("restored", "model_changed", "trial", "stopped_by", "stop_reason")
NOTHING_DONE = StepOutcome()


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """One step as it was recorded.

    Args:
        stats: What was measured.
        outcome: What was done, and what came of it; without the factors on gradients and learning rate.
    """

    stats: GradStats
    outcome: StepOutcome


class Recorder:
    """Appends the steps of one optimizer to files in `folder`.

    Args:
        folder: Where; made when the first row is written.
        optimizer: The optimizer's index when there are several; otherwise empty.
    """

    def __init__(self, folder: Path, optimizer: str = "") -> None:
        self.folder, self.stem = folder, f"steps{optimizer and '-'}{optimizer}"
        self.written = 0
        self._key: tuple[Any, ...] = ()  # what one file is about
        self._header = ""
        self._rows: list[Floats] = []
        self._lines: list[str] = []
        self._path: Path | None = None

    def add(self, report: StepReport) -> None:
        """Keeps one step in memory until `flush`."""
        stats = report.stats
        key = (stats.layers.names, stats.buffers, stats.total_steps, stats.multiple_optimizers)
        if key != self._key:
            self.flush()
            self._key, self._header, self._path = key, header_of(stats), None
        if self.written >= MOST_BYTES:
            return
        self._rows += rows_of(stats, report.outcome)
        if extra := extra_of(stats, report.outcome):
            self._lines.append(json.dumps({"step": stats.step, **extra}))
        if len(self._rows) > MOST_WAITING:
            del self._rows[:-MOST_WAITING]

    def flush(self) -> None:
        """Writes what is kept; after a failure it is kept, and written into new files the next time."""
        if not self._rows:
            return
        rows, lines = np.stack(self._rows).tobytes(), "".join(f"{line}\n" for line in self._lines).encode()
        path, self._path = self._path or self._new_file(), None
        with path.open("ab") as file:
            file.write(rows)
        if lines:
            with path.with_suffix(".jsonl").open("ab") as file:
                file.write(lines)
        self._rows, self._lines, self._path = [], [], path
        self.written += len(rows) + len(lines)

    def _new_file(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name.split(".")[1]) for path in self.folder.glob(f"{self.stem}.*.f64")]
        path = self.folder / f"{self.stem}.{max(taken, default=-1) + 1:04d}.f64"
        path.write_bytes(self._header.encode() + b"\n")
        return path


def header_of(stats: GradStats) -> str:
    """What does not change from step to step, as JSON."""
    return json.dumps(
        {
            "version": VERSION,
            "layers": list(stats.layers.names),
            "numel": stats.layers.numel.tolist(),
            "matrix": stats.layers.matrix.tolist(),
            "buffers": list(stats.buffers),
            "total_steps": stats.total_steps,
            "multiple_optimizers": stats.multiple_optimizers,
        }
    )


def rows_of(stats: GradStats, outcome: StepOutcome) -> list[Floats]:
    """One step as flat rows."""
    flags = OVERFLOW * stats.scaler_overflow + LOSS_KNOWN * (stats.loss is not None)
    flags += CANCELLED * outcome.cancelled + IN_TRIAL * outcome.in_trial + SNAPSHOT * outcome.snapshot
    loss = math.nan if stats.loss is None else stats.loss
    layers = {
        GRADIENT: stats.grad_norm, WEIGHT: stats.param_norm, RATIO: stats.update_ratio, TRAINABLE: stats.trainable,
    }  # fmt: skip
    return [
        np.concatenate([[stats.step, what, loss, stats.lr, flags], values, stats.buffer_norm])
        for what, values in layers.items()
        if values is not None
    ]


def extra_of(stats: GradStats, outcome: StepOutcome) -> dict[str, Any]:
    """What a step has beside its numbers; empty for most."""
    told = {name: getattr(outcome, name) for name in TOLD if getattr(outcome, name) != getattr(NOTHING_DONE, name)}
    told["responses"] = tuple(response for response in outcome.responses if response.remedies) or None
    told |= {"activation_stats": stats.activation_stats, "batch_stats": stats.batch_stats}
    return {name: pack(value) for name, value in told.items() if value is not None}


def read_steps(folder: Path, optimizer: str = "") -> list[RecordedStep]:
    """The recorded steps of one optimizer in order, each once.

    Raises:
        FileNotFoundError: If nothing was recorded there.
        ValueError: If the recording has another format.
    """
    stem = f"steps{optimizer and '-'}{optimizer}"
    files = sorted(folder.glob(f"{stem}.*.f64"))
    if not files:
        raise FileNotFoundError(f"No recorded steps `{stem}.*.f64` in {folder}; was the run trained with GradGuard?")
    steps = {step.stats.step: step for path in files for step in reversed(list(_read_file(path)))}
    return [steps[number] for number in sorted(steps)]


def recorded_optimizers(folder: Path) -> list[str]:
    """Names of the optimizers with recorded steps."""
    stems = {path.name.split(".")[0] for path in folder.glob("steps*.f64")}
    return sorted(stem.partition("-")[2] for stem in stems)


def _read_file(path: Path) -> Iterator[RecordedStep]:
    """The steps of one file, last first: a step's samples follow it."""
    head, _, body = path.read_bytes().partition(b"\n")
    header: dict[str, Any] = json.loads(head)
    if header["version"] != VERSION:
        raise ValueError(f"{path} has format {header['version']}, this release reads {VERSION}.")
    layers = Layers(tuple(header["layers"]), np.array(header["numel"]), np.array(header["matrix"], bool))
    count, buffers = len(layers), tuple(header["buffers"])
    fixed = {name: header[name] for name in ("total_steps", "multiple_optimizers")}
    width = len(FIELDS) + count + len(buffers)
    whole = len(body) // (8 * width)
    extras = _read_extras(path.with_suffix(".jsonl"))
    samples: dict[int, Floats] = {}
    for row in reversed(np.frombuffer(body[: 8 * width * whole]).reshape(whole, width)):
        step, what, loss, lr = int(row[0]), int(row[1]), float(row[2]), float(row[3])
        flags, values, buffer_norm = int(row[4]), row[len(FIELDS) : len(FIELDS) + count], row[len(FIELDS) + count :]
        if what != GRADIENT:
            samples[what] = values
            continue
        extra = extras.get(step, {})
        trainable = samples.pop(TRAINABLE, None)
        stats = GradStats(
            step=step, layers=layers, grad_norm=values, loss=loss if flags & LOSS_KNOWN else None, lr=lr,
            scaler_overflow=bool(flags & OVERFLOW), buffers=buffers, buffer_norm=buffer_norm, **fixed,
            param_norm=samples.pop(WEIGHT, None), update_ratio=samples.pop(RATIO, None),
            trainable=None if trainable is None else trainable.astype(bool),
            activation_stats=activation_stats_of(extra.get("activation_stats")),
            batch_stats=BatchStats(**extra["batch_stats"]) if "batch_stats" in extra else None,
        )  # fmt: skip
        flagged = StepOutcome(
            cancelled=bool(flags & CANCELLED), in_trial=bool(flags & IN_TRIAL), snapshot=bool(flags & SNAPSHOT)
        )
        yield RecordedStep(stats, outcome_of(flagged, extra))


def _read_extras(path: Path) -> dict[int, dict[str, Any]]:
    """What steps have beside their numbers, by step; a torn line is left out."""
    extras: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            extra = unpack(json.loads(line))
            extras[extra["step"]] = extra
        except (ValueError, KeyError, TypeError):
            continue
    return extras


def activation_stats_of(plain: dict[str, Any] | None) -> ActivationStats | None:
    """Activation statistics as they were recorded."""
    if plain is None:
        return None
    records = [ActivationRecord(**{**record, "traits": Traits(**record["traits"])}) for record in plain["activations"]]
    return ActivationStats(**{**plain, "activations": tuple(records)})


def outcome_of(flagged: StepOutcome, extra: dict[str, Any]) -> StepOutcome:
    """An outcome as it was recorded: flags, and what the step has beside its numbers."""
    told = {name: extra[name] for name in TOLD if name in extra}
    if "trial" in told:
        told["trial"] = TrialEvent(**told["trial"])
    if "responses" in extra:
        told["responses"] = tuple(
            Response(response["kind"], response["remedies"], tuple(Action(**action) for action in response["actions"]))
            for response in extra["responses"]
        )
    return replace(flagged, **told)
