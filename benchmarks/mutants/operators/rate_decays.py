"""The learning rate halves too often."""

from __future__ import annotations

from mutants.operators import SMALL_STEPS, operator
from mutants.setups import Setup
from mutants.strikes import scale_rate


@operator(SMALL_STEPS, severity=(1e-3, 1.0))
def rate_decays(setup: Setup, severity: float) -> None:
    half = severity * setup.steps
    scale_rate(setup, lambda step: 0.5 ** (step / half))
