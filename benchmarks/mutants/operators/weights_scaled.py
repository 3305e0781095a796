"""One weight matrix is multiplied once."""

from __future__ import annotations

from mutants.layers import matrices
from mutants.operators import DAMAGE, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_net


@operator(DAMAGE, severity=(1.0, 1e6), onset=SUDDEN)
def weights_scaled(setup: Setup, severity: float) -> None:
    which = setup.random.randrange(len(matrices(setup.net)))
    on_net(setup, moment(setup), lambda net: matrices(net)[which].mul_(severity))
