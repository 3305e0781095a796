"""The learning rate is too high for ten steps."""

from __future__ import annotations

from mutants.operators import LARGE_STEPS, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, scale_rate


@operator([*LARGE_STEPS, "loss_spike", "loss_increase", "damaged_weights"], severity=(1.0, 1e5), onset=SUDDEN)
def rate_bursts(setup: Setup, severity: float) -> None:
    burst = moment(setup, 10)
    scale_rate(setup, lambda step: severity if step in burst else 1.0)
