"""The weights of one layer begin too large."""

from __future__ import annotations

from mutants.layers import one_matrix
from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup


@operator(BAD_WEIGHTS, severity=(1.0, 1e4))
def one_weight_too_large(setup: Setup, severity: float) -> None:
    one_matrix(setup).mul_(severity)
