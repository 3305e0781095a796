"""A gradient is NaN for a few steps."""

from __future__ import annotations

import math

from mutants.operators import SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_gradients


@operator(["nonfinite"], severity=(1.0, 30.0), onset=SUDDEN)
def gradients_nan(setup: Setup, severity: float) -> None:
    which, steps = setup.random.randrange(1000), moment(setup, round(severity))
    on_gradients(setup, steps, lambda gradients: gradients[which % len(gradients)].fill_(math.nan))
