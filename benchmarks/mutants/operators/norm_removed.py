"""The normalization is missing."""

from __future__ import annotations

from torch import nn

from mutants.layers import NORMS, swap
from mutants.operators import BAD_WEIGHTS, LARGE_STEPS, operator
from mutants.setups import Setup


@operator([*BAD_WEIGHTS, *LARGE_STEPS], needs=["norm"])
def norm_removed(setup: Setup, severity: float) -> None:
    swap(setup.net, NORMS, nn.Identity)
