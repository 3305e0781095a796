"""From some step on, inputs come in another unit."""

from __future__ import annotations

from mutants.operators import BAD_INPUT, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import on_batch, rest


@operator([*BAD_INPUT, "loss_increase", "diverging", "nonfinite"], (1e-2, 1e4), ["real inputs"], SUDDEN)
def inputs_in_another_unit(setup: Setup, severity: float) -> None:
    on_batch(setup, rest(setup), lambda x, y: x.mul_(severity))
