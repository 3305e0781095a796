"""For a while, inputs are noise."""

from __future__ import annotations

from mutants.operators import BAD_INPUT, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import generator, moment, on_batch


@operator([*BAD_INPUT, "loss_increase", "diverging"], (1e-1, 1e4), ["real inputs"], SUDDEN)
def noise_for_a_while(setup: Setup, severity: float) -> None:
    noise, length = generator(setup), setup.random.randint(1, 60)
    on_batch(setup, moment(setup, length), lambda x, y: x.normal_(0.0, severity, generator=noise))
