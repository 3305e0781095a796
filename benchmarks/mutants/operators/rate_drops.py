"""The learning rate drops and stays there."""

from __future__ import annotations

from mutants.operators import SMALL_STEPS, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import rest, scale_rate


@operator(SMALL_STEPS, severity=(1e-4, 1.0), onset=SUDDEN)
def rate_drops(setup: Setup, severity: float) -> None:
    late = rest(setup)
    scale_rate(setup, lambda step: severity if step in late else 1.0)
