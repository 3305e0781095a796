"""The loss is the root of the squared error."""

from __future__ import annotations

from mutants.operators import operator
from mutants.setups import Setup


@operator(["oscillating", "nonfinite"], needs=["real targets"])
def loss_root(setup: Setup, severity: float) -> None:
    loss = setup.module.loss
    setup.module.loss = lambda outputs, targets: loss(outputs, targets).sqrt()
