"""ACT: what a look inside says about weights that are to be drawn or set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradguard.collect.activation_stats import SATURATING, ActivationStats
from lightning_gradguard.modules.gains import gain_of


def gain_after(module: nn.Module, layer: str, look: ActivationStats | None) -> tuple[bool, float]:
    """Whether the activation after a layer levels off on both sides, and its gain."""
    for activation in look.activations if look is not None else ():
        if activation.layer == layer and look is not None and layer != look.layers[-1]:
            present = module.get_submodule(activation.owner) if activation.owner else None
            owned = present is not None and not list(present.children()) and not list(present.parameters())
            function: Any = present if owned else function_of(activation.kind)
            kind = type(present).__name__.lower() if owned else activation.kind
            return kind in SATURATING, gain_of(function)
    return False, 1.0


def function_of(kind: str) -> Callable[[Tensor], Tensor]:
    """Torch's function of that name."""
    return getattr(torch, kind, None) or getattr(nn.functional, kind)


def forget_bias(look: ActivationStats | None) -> float:
    """Bias with which a gate remembers about as long as the longest sequence in the look: log(T - 1), at least log 3.

    Example:
        >>> import numpy as np
        >>> round(forget_bias(ActivationStats(time={"rnn": np.ones(101)})), 2)
        4.61

    References:
        Tallec and Ollivier 2018, arXiv 1804.11188.
    """
    length = max((len(gradient) for gradient in look.time.values()), default=0) if look is not None else 0
    return math.log(max(length - 1, 3))
