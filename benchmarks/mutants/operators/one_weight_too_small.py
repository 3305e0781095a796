"""The weights of one layer begin too small."""

from __future__ import annotations

from mutants.layers import one_matrix
from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup


@operator([*BAD_WEIGHTS, "no_progress", "stalled"], severity=(1e-4, 1.0))
def one_weight_too_small(setup: Setup, severity: float) -> None:
    one_matrix(setup).mul_(severity)
