"""The targets are scaled."""

from __future__ import annotations

from mutants.operators import LARGE_STEPS, operator
from mutants.setups import Setup


@operator([*LARGE_STEPS, "no_progress"], severity=(1e-3, 1e4), needs=["real targets"])
def targets_scaled(setup: Setup, severity: float) -> None:
    setup.data.y.mul_(severity)
    setup.data.test_y.mul_(severity)
