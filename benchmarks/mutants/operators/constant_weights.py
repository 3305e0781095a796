"""All weights of a layer begin as the same number."""

from __future__ import annotations

from mutants.layers import one_matrix
from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup


@operator([*BAD_WEIGHTS, "no_progress"], severity=(1e-3, 10.0))
def constant_weights(setup: Setup, severity: float) -> None:
    one_matrix(setup).fill_(severity)
