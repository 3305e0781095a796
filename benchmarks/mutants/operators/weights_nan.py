"""A few weights become NaN once."""

from __future__ import annotations

import math

from mutants.layers import matrices
from mutants.operators import SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_net


@operator(["nonfinite", "nonfinite_state", "damaged_weights"], severity=(1.0, 30.0), onset=SUDDEN)
def weights_nan(setup: Setup, severity: float) -> None:
    which = setup.random.randrange(len(matrices(setup.net)))
    on_net(setup, moment(setup), lambda net: matrices(net)[which].view(-1)[: round(severity)].fill_(math.nan))
