"""All biases begin far from zero, on one side."""

from __future__ import annotations

from mutants.layers import biases
from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup


@operator([*BAD_WEIGHTS, "no_progress", "vanishing_through_time"], severity=(0.1, 1e2), needs=["bias"])
def biases_shifted(setup: Setup, severity: float) -> None:
    sign = setup.random.choice((-1.0, 1.0))
    for bias in biases(setup.net):
        bias.fill_(sign * severity)
