"""The running statistics of batch normalization are multiplied once."""

from __future__ import annotations

from mutants.operators import DAMAGE, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_net


@operator(["exploding_buffer", *DAMAGE], severity=(1e-4, 1e6), needs=["batch norm"], onset=SUDDEN)
def statistics_scaled(setup: Setup, severity: float) -> None:
    on_net(setup, moment(setup), lambda net: [b.mul_(severity) for b in net.buffers() if b.is_floating_point()])
