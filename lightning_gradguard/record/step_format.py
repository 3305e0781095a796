"""RECORD: the format of the recorded steps (see `step_log`), for readers that need no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.record.conforming import conforms
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.packing import unpack

FOLDER = "gradguard"
#: Pattern of the files of all optimizers, and the file that tells how the run ended.
RECORDINGS, END = "steps*.f64", "end.json"
VERSION = 3
#: A row begins with these; then the layers' values, whose meaning `what` tells, and the buffers' norms.
FIELDS = ("step", "what", "loss", "lr", "flags")
GRADIENT, WEIGHT, RATIO, TRAINABLE = 0, 1, 2, 3
OVERFLOW, LOSS_KNOWN, CANCELLED, SNAPSHOT, KNOWN_GOOD = 1, 2, 4, 8, 16


def recorded_optimizers(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the optimizers with recorded steps."""
    stems = {name.split(".")[0] for name in Location(folder).names(RECORDINGS)}
    return sorted(stem.partition("-")[2] for stem in stems)


def recorded_files(folder: Location, optimizer: str = "") -> list[str]:
    """Names of the files of one optimizer, in the order in which they were written."""
    names = folder.names(f"{stem_of(optimizer)}.*.f64")
    return sorted((name for name in names if number_of(name) >= 0), key=number_of)


def stem_of(optimizer: str) -> str:
    """How the names of an optimizer's files begin.

    Example:
        >>> stem_of(""), stem_of("1")
        ('steps', 'steps-1')
    """
    return f"steps{optimizer and '-'}{optimizer}"


def number_of(name: str) -> int:
    """Number of a file of steps; -1 if it is none.

    Example:
        >>> number_of("steps.0003.f64"), number_of("steps-1.0012.jsonl"), number_of("steps.old.f64")
        (3, 12, -1)
    """
    number = name.split(".")[1]
    return int(number) if number.isascii() and number.isdigit() else -1


def write_end(folder: Location, end: dict[str, Any]) -> None:
    """Tells readers how a run ended whose steps are in `folder`."""
    (folder / END).write(json.dumps({**end, "bytes": recorded_bytes(folder)}).encode())


def read_end(folder: Location) -> dict[str, Any] | None:
    """How the run ended; None while it is running, after an interruption, and once it was resumed."""
    end = read_header((folder / END).read())
    return end if end.get("bytes") == recorded_bytes(folder) and conforms(end.get("steps"), int) else None


def recorded_bytes(folder: Location) -> int:
    """Bytes in all files of steps: they grow when a run that has ended is resumed."""
    return sum(folder.size(name) for name in folder.names(RECORDINGS))


def read_header(head: bytes) -> dict[str, Any]:
    """The JSON in the first line of a file; empty if it is torn or something else wrote it."""
    try:
        header = json.loads(head)
    except (ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def is_header(header: dict[str, Any]) -> bool:
    """Whether a file's first line is such as `step_log.header_of` writes."""
    types = {
        "layers": tuple[str, ...], "numel": tuple[int, ...], "matrix": tuple[bool, ...], "buffers": tuple[str, ...],
        "total_steps": int | None, "multiple_optimizers": bool,
    }  # fmt: skip
    plain = unpack(header)
    sound = all(name in plain and conforms(plain[name], hint) for name, hint in types.items())
    sound = sound and conforms(plain.get("eps", 0.0), float)  # older recordings have none
    return sound and len(plain["layers"]) == len(plain["numel"]) == len(plain["matrix"])


def whole_rows(body: bytes | memoryview, header: dict[str, Any]) -> NDArray[np.float64]:
    """The rows of a file `[N, fields + layers + buffers]`, without a torn last one."""
    width = len(FIELDS) + len(header["layers"]) + len(header["buffers"])
    count = len(body) // (8 * width)
    return np.frombuffer(body, count=count * width).reshape(count, width)


def sound_rows(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows begin with fields such as `step_log.rows_of` writes, `[N]`."""
    step, what, flags = rows[:, 0], rows[:, 1], rows[:, FIELDS.index("flags")]
    whole = (step >= 0) & (step < 2**53) & (np.floor(step) == step)
    return np.asarray(whole & np.isin(what, range(4)) & np.isin(flags, range(32)))


def tables(folder: Location, optimizer: str = "") -> Iterator[tuple[dict[str, Any], NDArray[np.float64]]]:
    """Header and sound rows of each file of one optimizer; files that cannot be read are left out."""
    for name in recorded_files(folder, optimizer):
        content = (folder / name).read()
        end = content.find(b"\n") + 1
        header = read_header(content[:end])
        if header.get("version") == VERSION and is_header(header):
            rows = whole_rows(memoryview(content)[end:], header)
            sound = sound_rows(rows)
            yield header, rows if sound.all() else rows[sound]
