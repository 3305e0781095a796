"""The second moments of the optimizer are divided once."""

from __future__ import annotations

from mutants.operators import DAMAGE, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import SECOND, moment, moments, on_optimizer


@operator([*DAMAGE, "overshooting", "diverging"], severity=(1.0, 1e8), needs=["eps"], onset=SUDDEN)
def second_moments_divided(setup: Setup, severity: float) -> None:
    on_optimizer(setup, moment(setup), lambda optimizer: [m.div_(severity) for m in moments(optimizer, SECOND)])
