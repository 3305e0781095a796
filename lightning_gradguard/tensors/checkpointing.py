"""Plain values: what a checkpoint may hold and load again under `weights_only=True`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
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


def load_parts(state: Mapping[str, Any], loaders: Mapping[str, Callable[[Any], None]]) -> None:
    """Gives each part of a state to its loader; what is missing or of another form is reset, with a warning.

    Args:
        state: From a checkpoint, perhaps of another release or of a run with other settings.
        loaders: By part; each changes nothing when it raises.

    Example:
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     load_parts({"steps": 7}, {"steps": print, "clip": print})
        7
        >>> print(told[0].message)
        GradGuard starts with an empty 'clip': its state in the checkpoint cannot be used (KeyError: 'clip').
    """
    for part, load in loaders.items():
        try:
            load(state[part])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            warnings.warn(
                f"GradGuard starts with an empty {part!r}: its state in the checkpoint cannot be used "
                f"({type(error).__name__}: {error}).",
                stacklevel=3,
            )
