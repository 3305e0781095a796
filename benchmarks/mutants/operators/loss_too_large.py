"""The loss is multiplied."""

from __future__ import annotations

from mutants.operators import LARGE_STEPS, operator
from mutants.setups import Setup


@operator(LARGE_STEPS, severity=(1.0, 1e6))
def loss_too_large(setup: Setup, severity: float) -> None:
    loss = setup.module.loss
    setup.module.loss = lambda outputs, targets: severity * loss(outputs, targets)
