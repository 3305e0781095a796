"""The inputs are not scaled."""

from __future__ import annotations

from mutants.operators import BAD_INPUT, operator
from mutants.setups import Setup


@operator(BAD_INPUT, severity=(1.0, 1e4), needs=["real inputs"])
def inputs_too_large(setup: Setup, severity: float) -> None:
    setup.data.x.mul_(severity)
    setup.data.test_x.mul_(severity)
