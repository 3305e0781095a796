"""The learning rate is too high."""

from __future__ import annotations

from mutants.operators import LARGE_STEPS, operator
from mutants.setups import Setup


@operator(LARGE_STEPS, severity=(1.0, 1e4))
def rate_too_high(setup: Setup, severity: float) -> None:
    setup.module.options["lr"] *= severity
