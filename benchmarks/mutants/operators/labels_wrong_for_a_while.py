"""For a while, labels belong to other samples."""

from __future__ import annotations

from mutants.operators import SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_batch


@operator(["loss_spike", "loss_increase", "diverging"], severity=(1.0, 100.0), onset=SUDDEN)
def labels_wrong_for_a_while(setup: Setup, severity: float) -> None:
    on_batch(setup, moment(setup, round(severity)), lambda x, y: y.copy_(y.roll(1, 0)))
