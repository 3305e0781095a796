"""RECORD: every step's statistics on disk, so that `gradguard replay` can ask other detectors about a run that is over.

One file for each optimizer and set of layers: a line of JSON with the names, then rows of float64, one a step and two
more for a step that brings a sample of weights and updates. Later rows of the same step (a run resumed from a
checkpoint) replace earlier ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lightning_gradguard.collect.layers import Layers
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.tensors.norms import Floats

FOLDER = "gradguard"
VERSION = 1
#: Bytes after which a run is recorded no further: 1,000 layers for 33,000 steps, 20 layers for 1.3 million. Chosen.
MOST_BYTES = 256 * 2**20
#: A row begins with these; then the layers' gradient norms (or their parameter norms, or update ratios, by `what`)
#: and the buffers' norms. Flags: 1 overflow, 2 the loss is known, 4 multiple_optimizers, 8 restored.
FIELDS = ("step", "what", "loss", "lr", "flags")
GRADIENT, WEIGHT, RATIO = 0, 1, 2


class Recorder:
    """Appends the statistics of one optimizer to files in `folder`.

    Args:
        folder: Where; made when the first row is written.
        optimizer: The optimizer's index when there are several; otherwise empty.
    """

    def __init__(self, folder: Path, optimizer: str = "") -> None:
        self.folder, self.stem = folder, f"steps{optimizer and '-'}{optimizer}"
        self.written = 0
        self._names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._rows: list[Floats] = []
        self._path: Path | None = None

    def add(self, stats: GradStats) -> None:
        """Keeps one step in memory until `flush`."""
        names = (stats.layers.names, stats.buffers)
        if names != self._names:
            self.flush()
            self._names, self._path, self._layers = names, None, stats.layers
        if self.written < MOST_BYTES:
            self._rows += rows_of(stats)

    def flush(self) -> None:
        """Writes what is kept."""
        if not self._rows:
            return
        rows, self._rows = np.stack(self._rows), []
        if self._path is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = len(list(self.folder.glob(f"{self.stem}.*.f64")))
            self._path = self.folder / f"{self.stem}.{number:04d}.f64"
            header = {
                "version": VERSION,
                "layers": list(self._layers.names),
                "numel": self._layers.numel.tolist(),
                "matrix": self._layers.matrix.tolist(),
                "buffers": list(self._names[1]),
            }
            self._path.write_bytes(json.dumps(header).encode() + b"\n")
        with self._path.open("ab") as file:
            file.write(rows.tobytes())
        self.written += rows.nbytes


def rows_of(stats: GradStats) -> list[Floats]:
    """One step as flat rows."""
    flags = stats.scaler_overflow + 2 * (stats.loss is not None) + 4 * stats.multiple_optimizers + 8 * stats.restored
    loss = math.nan if stats.loss is None else stats.loss
    layers = {GRADIENT: stats.grad_norm, WEIGHT: stats.param_norm, RATIO: stats.update_ratio}
    return [
        np.concatenate([[stats.step, what, loss, stats.lr, flags], values, stats.buffer_norm])
        for what, values in layers.items()
        if values is not None
    ]


def read_steps(folder: Path, optimizer: str = "") -> list[GradStats]:
    """The recorded steps of one optimizer in order, each once.

    Raises:
        FileNotFoundError: If nothing was recorded there.
    """
    stem = f"steps{optimizer and '-'}{optimizer}"
    files = sorted(folder.glob(f"{stem}.*.f64"))
    if not files:
        raise FileNotFoundError(f"No recorded steps `{stem}.*.f64` in {folder}; was the run trained with GradGuard?")
    steps = {stats.step: stats for path in files for stats in reversed(list(_read_file(path)))}
    return [steps[step] for step in sorted(steps)]


def recorded_optimizers(folder: Path) -> list[str]:
    """Names of the optimizers with recorded steps."""
    stems = {path.name.split(".")[0] for path in folder.glob("steps*.f64")}
    return sorted(stem.partition("-")[2] for stem in stems)


def _read_file(path: Path) -> Iterator[GradStats]:
    """The steps of one file, last first: a step's samples follow it."""
    head, _, body = path.read_bytes().partition(b"\n")
    header: dict[str, Any] = json.loads(head)
    if header["version"] != VERSION:
        raise ValueError(f"{path} has format {header['version']}, this version reads {VERSION}.")
    layers = Layers(tuple(header["layers"]), np.array(header["numel"]), np.array(header["matrix"], bool))
    count, buffers = len(layers), tuple(header["buffers"])
    width = len(FIELDS) + count + len(buffers)
    whole = len(body) // (8 * width)  # a last row torn by a crash is left out
    samples: dict[int, Floats] = {}
    for row in reversed(np.frombuffer(body[: 8 * width * whole]).reshape(whole, width)):
        step, what, loss, lr, flags = row[: len(FIELDS)]
        values, buffer_norm = row[len(FIELDS) : len(FIELDS) + count], row[len(FIELDS) + count :]
        if what != GRADIENT:
            samples[int(what)] = values
            continue
        yield GradStats(
            step=int(step), layers=layers, grad_norm=values, loss=float(loss) if int(flags) & 2 else None, lr=float(lr),
            scaler_overflow=bool(int(flags) & 1),
            multiple_optimizers=bool(int(flags) & 4), restored=bool(int(flags) & 8),
            buffers=buffers, buffer_norm=buffer_norm,
            param_norm=samples.pop(WEIGHT, None), update_ratio=samples.pop(RATIO, None),
        )  # fmt: skip
