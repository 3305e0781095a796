"""The learning rate is too low."""

from __future__ import annotations

from mutants.operators import SMALL_STEPS, operator
from mutants.setups import Setup


@operator(SMALL_STEPS, severity=(1e-4, 1.0))
def rate_too_low(setup: Setup, severity: float) -> None:
    setup.module.options["lr"] *= severity
