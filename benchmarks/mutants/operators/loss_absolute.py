"""The loss is the absolute error."""

from __future__ import annotations

from torch.nn import functional as F

from mutants.operators import SMALL_STEPS, operator
from mutants.setups import Setup


@operator([*SMALL_STEPS, "oscillating"], needs=["real targets"])
def loss_absolute(setup: Setup, severity: float) -> None:
    setup.module.loss = F.l1_loss
