"""The learning rate grows to the end of the run."""

from __future__ import annotations

from mutants.operators import LARGE_STEPS, operator
from mutants.setups import Setup
from mutants.strikes import scale_rate


@operator([*LARGE_STEPS, "loss_spike", "loss_increase"], severity=(1.0, 1e4))
def rate_grows(setup: Setup, severity: float) -> None:
    scale_rate(setup, lambda step: severity ** (step / setup.steps))
