"""All weights begin too small."""

from __future__ import annotations

from mutants.layers import matrices
from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup


@operator([*BAD_WEIGHTS, "no_progress", "stalled"], severity=(1e-3, 1.0))
def weights_too_small(setup: Setup, severity: float) -> None:
    for weight in matrices(setup.net):
        weight.mul_(severity)
