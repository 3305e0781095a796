"""The loss is the sum over the batch instead of the mean."""

from __future__ import annotations

from mutants.operators import LARGE_STEPS, operator
from mutants.setups import Setup


@operator(LARGE_STEPS)
def loss_summed(setup: Setup, severity: float) -> None:
    loss = setup.module.loss
    setup.module.loss = lambda outputs, targets: targets.numel() * loss(outputs, targets)
