"""The learning rate is too high."""

from __future__ import annotations

from mutants.operator import LARGE_STEPS, operator
from mutants.setup import Setup


@operator(LARGE_STEPS, severity=(1.0, 1e4))
def rate_too_high(setup: Setup, severity: float) -> None:
    setup.module.options["lr"] *= severity
