"""All weights of all layers begin as the same number."""

from __future__ import annotations

from mutants.layers import matrices
from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup


@operator([*BAD_WEIGHTS, "no_progress", "stalled"], severity=(1e-4, 1.0))
def all_weights_constant(setup: Setup, severity: float) -> None:
    for weight in matrices(setup.net):
        weight.fill_(severity)
