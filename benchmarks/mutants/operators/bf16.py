"""Weights and computation have the precision of bfloat16."""

from __future__ import annotations

from mutants.operators import SMALL_STEPS, operator
from mutants.setups import Setup


@operator(SMALL_STEPS)
def bf16(setup: Setup, severity: float) -> None:
    setup.trainer["precision"] = "bf16-true"
