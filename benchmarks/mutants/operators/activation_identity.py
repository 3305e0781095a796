"""The activations are missing."""

from __future__ import annotations

from torch import nn

from mutants.layers import ACTIVATIONS, swap
from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup


@operator([*BAD_WEIGHTS, "unsuited_activation", "no_progress"], needs=["activation"])
def activation_identity(setup: Setup, severity: float) -> None:
    swap(setup.net, ACTIVATIONS, nn.Identity)
