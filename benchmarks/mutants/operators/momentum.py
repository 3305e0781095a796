"""The momentum is another."""

from __future__ import annotations

from mutants.operators import LARGE_STEPS, operator
from mutants.setups import Setup


@operator([*LARGE_STEPS, "momentum_too_large"], severity=(1e-4, 1.0), needs=["momentum"])
def momentum(setup: Setup, severity: float) -> None:
    options = setup.module.options
    if "betas" in options:
        options["betas"] = (1.0 - severity, options["betas"][1])
    else:
        options["momentum"] = max(1.0 - severity, 1e-6)
