"""The first moments or the momentum of the optimizer are multiplied once."""

from __future__ import annotations

from mutants.operators import DAMAGE, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import FIRST, moment, moments, on_optimizer


@operator([*DAMAGE, "overshooting", "diverging"], severity=(1.0, 1e6), needs=["momentum"], onset=SUDDEN)
def moments_scaled(setup: Setup, severity: float) -> None:
    on_optimizer(setup, moment(setup), lambda optimizer: [m.mul_(severity) for m in moments(optimizer, FIRST)])
