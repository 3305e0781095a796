"""The loss is divided."""

from __future__ import annotations

from mutants.operators import SMALL_STEPS, operator
from mutants.setups import Setup


@operator(SMALL_STEPS, severity=(1e-6, 1.0))
def loss_too_small(setup: Setup, severity: float) -> None:
    loss = setup.module.loss
    setup.module.loss = lambda outputs, targets: severity * loss(outputs, targets)
