"""For a while, targets come in another unit."""

from __future__ import annotations

from mutants.operators import SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_batch


@operator(["loss_spike", "loss_increase", "exploding", "diverging"], (1.0, 1e5), ["real targets"], SUDDEN)
def targets_in_another_unit(setup: Setup, severity: float) -> None:
    length = setup.random.randint(1, 40)
    on_batch(setup, moment(setup, length), lambda x, y: y.mul_(severity))
