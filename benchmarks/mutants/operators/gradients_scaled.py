"""The gradients of a few steps are multiplied."""

from __future__ import annotations

from mutants.operators import DAMAGE, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_gradients


@operator(["exploding", "early_outlier", "overshooting", *DAMAGE], severity=(1.0, 1e8), onset=SUDDEN)
def gradients_scaled(setup: Setup, severity: float) -> None:
    length = setup.random.randint(1, 5)
    on_gradients(setup, moment(setup, length), lambda gradients: [gradient.mul_(severity) for gradient in gradients])
