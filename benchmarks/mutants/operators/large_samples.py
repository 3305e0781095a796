"""Some samples are far larger than the others."""

from __future__ import annotations

from mutants.operators import BAD_INPUT, operator
from mutants.setups import Setup


@operator([*BAD_INPUT, "loss_increase"], severity=(1e1, 1e6), needs=["real inputs"])
def large_samples(setup: Setup, severity: float) -> None:
    rows = setup.random.sample(range(len(setup.data.x)), 3 + len(setup.data.x) // 500)
    setup.data.x[rows] *= severity
