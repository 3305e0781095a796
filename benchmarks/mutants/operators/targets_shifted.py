"""The targets are far from zero."""

from __future__ import annotations

from mutants.operators import LARGE_STEPS, operator
from mutants.setups import Setup


@operator([*LARGE_STEPS, "no_progress"], severity=(0.1, 1e4), needs=["real targets"])
def targets_shifted(setup: Setup, severity: float) -> None:
    setup.data.y.add_(severity)
    setup.data.test_y.add_(severity)
