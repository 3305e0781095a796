"""The constant in the denominator of the optimizer is another."""

from __future__ import annotations

from mutants.operators import SMALL_STEPS, operator
from mutants.setups import Setup


@operator(SMALL_STEPS, severity=(1e-12, 1e2), needs=["eps"])
def eps(setup: Setup, severity: float) -> None:
    setup.module.options["eps"] = severity
