"""All weights begin too large."""

from __future__ import annotations

from mutants.layers import matrices
from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup


@operator(BAD_WEIGHTS, severity=(1.0, 1e3))
def weights_too_large(setup: Setup, severity: float) -> None:
    for weight in matrices(setup.net):
        weight.mul_(severity)
