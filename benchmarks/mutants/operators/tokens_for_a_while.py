"""For a while, inputs are other tokens."""

from __future__ import annotations

from mutants.operators import SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import generator, moment, on_batch


@operator(["loss_spike", "loss_increase", "diverging"], (1.0, 100.0), ["tokens"], SUDDEN)
def tokens_for_a_while(setup: Setup, severity: float) -> None:
    noise, most = generator(setup), int(setup.data.x.max()) + 1
    on_batch(setup, moment(setup, round(severity)), lambda x, y: x.random_(0, most, generator=noise))
