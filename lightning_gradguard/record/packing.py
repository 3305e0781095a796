"""Plain values as JSON, with numpy arrays packed exactly."""

from __future__ import annotations

import base64
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def pack(value: Any) -> Any:
    """A value that `json.dumps` writes: arrays as base64 of their bytes (bools as bits), dataclasses as dicts.

    Example:
        >>> import json
        >>> packed = json.dumps(pack({"dead": np.array([True, False]), "rms": np.array([0.1, np.nan])}))
        >>> unpack(json.loads(packed))
        {'dead': array([ True, False]), 'rms': array([0.1, nan])}
    """
    if isinstance(value, np.ndarray):
        raw = np.packbits(value) if value.dtype.kind == "b" else value
        return {"array": base64.b64encode(raw.tobytes()).decode(), "dtype": value.dtype.str, "shape": value.shape}
    if is_dataclass(value):
        return {field.name: pack(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, dict):
        return {key: pack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def unpack(value: Any) -> Any:
    """The reverse of `pack`; tuples come back as tuples, and lists and dataclasses as tuples and dicts."""
    if isinstance(value, dict) and "array" in value:
        raw, dtype, shape = base64.b64decode(value["array"]), np.dtype(value["dtype"]), tuple(value["shape"])
        if dtype.kind == "b":
            bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=int(np.prod(shape)))
            return bits.astype(bool).reshape(shape)
        return np.frombuffer(raw, dtype).reshape(shape)
    if isinstance(value, dict):
        return {key: unpack(item) for key, item in value.items()}
    return tuple(map(unpack, value)) if isinstance(value, list) else value
