"""The second moments have another memory."""

from __future__ import annotations

from mutants.operators import LARGE_STEPS, SMALL_STEPS, operator
from mutants.setups import Setup


@operator([*LARGE_STEPS, *SMALL_STEPS], severity=(1e-5, 1.0), needs=["betas"])
def second_beta(setup: Setup, severity: float) -> None:
    options = setup.module.options
    options["betas"] = (options["betas"][0], 1.0 - severity)
