"""Plain values: what a checkpoint may hold and load again under `weights_only=True`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_checkpoint(value: Any) -> Any:
    """A state with numpy arrays as tensors, which a checkpoint loads under `weights_only=True`."""
    if isinstance(value, dict):
        return {key: to_checkpoint(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_checkpoint(item) for item in value]
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def from_checkpoint(value: Any) -> Any:
    """The reverse of `to_checkpoint`."""
    if isinstance(value, dict):
        return {key: from_checkpoint(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [from_checkpoint(item) for item in value]
    return value.numpy().copy() if isinstance(value, Tensor) else value
