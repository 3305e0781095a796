"""The learning rate jumps up and stays there."""

from __future__ import annotations

from mutants.operators import LARGE_STEPS, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import rest, scale_rate


@operator([*LARGE_STEPS, "loss_spike", "loss_increase"], severity=(1.0, 1e4), onset=SUDDEN)
def rate_jumps(setup: Setup, severity: float) -> None:
    late = rest(setup)
    scale_rate(setup, lambda step: severity if step in late else 1.0)
