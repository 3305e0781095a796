"""Activations are dropped during training."""

from __future__ import annotations

from torch import nn

from mutants.layers import ACTIVATIONS, places
from mutants.operators import operator
from mutants.setups import Setup


@operator(["dropout_too_large", "no_progress", "oscillating"], severity=(1e-2, 1.0), needs=["activation"])
def dropout(setup: Setup, severity: float) -> None:
    for parent, name, layer in list(places(setup.net, ACTIVATIONS)):
        setattr(parent, name, nn.Sequential(layer, nn.Dropout(1.0 - severity)))
