"""ACT: what the activation statistics say about weights and biases that are to be set."""

from __future__ import annotations

import math

from torch import nn

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.modules.activations import IDENTITY, Traits, traits_of_module


def traits_after(module: nn.Module, layer: str, stats: ActivationStats | None) -> Traits:
    """Properties of the activation that follows a layer; those of the identity for the last layer, or without one.

    An activation module may have been exchanged since it was sampled, so the present one counts.

    Args:
        module: The module in training.
        layer: Name of the layer.
        stats: The latest sample, if any.
    """
    if stats is None or layer == stats.layers[-1]:
        return IDENTITY
    record = next((a for a in stats.activations if a.layer == layer), None)
    if record is None:
        return IDENTITY
    present = traits_of_module(module.get_submodule(record.owner)) if record.owner else None
    return present or record.traits


def forget_bias(stats: ActivationStats | None) -> float:
    """Bias with which a gate remembers about as long as the longest sampled sequence: log(T - 1), at least log 3.

    Example:
        >>> import numpy as np
        >>> round(forget_bias(ActivationStats(time={"rnn": np.ones(101)})), 2)
        4.61

    References:
        Tallec and Ollivier 2018, arXiv 1804.11188.
    """
    length = max((len(gradient) for gradient in stats.time.values()), default=0) if stats is not None else 0
    return math.log(max(length - 1, 3))
