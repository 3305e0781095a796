"""The gradients point the wrong way for a while."""

from __future__ import annotations

from mutants.operators import DAMAGE, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_gradients


@operator(["diverging", "overshooting", *DAMAGE], severity=(1.0, 100.0), onset=SUDDEN)
def gradients_reversed(setup: Setup, severity: float) -> None:
    steps = moment(setup, round(severity))
    on_gradients(setup, steps, lambda gradients: [gradient.neg_() for gradient in gradients])
