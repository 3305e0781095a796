"""All weights begin uniform between 0 and a bound, instead of around 0."""

from __future__ import annotations

from mutants.layers import matrices
from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup
from mutants.strikes import generator


@operator([*BAD_WEIGHTS, "no_progress"], severity=(1e-3, 10.0))
def uniform_weights(setup: Setup, severity: float) -> None:
    for weight in matrices(setup.net):
        weight.uniform_(0.0, severity, generator=generator(setup))
