"""The gradients are zero for a while."""

from __future__ import annotations

from mutants.operators import SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_gradients


@operator(["stalled", "vanishing", "no_progress"], severity=(1.0, 300.0), onset=SUDDEN)
def gradients_lost(setup: Setup, severity: float) -> None:
    steps = moment(setup, round(severity))
    on_gradients(setup, steps, lambda gradients: [gradient.zero_() for gradient in gradients])
