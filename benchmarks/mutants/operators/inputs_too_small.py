"""The inputs are far too small."""

from __future__ import annotations

from mutants.operators import operator
from mutants.setups import Setup


@operator(["unnormalized_input", "poor_initialization", "no_progress"], severity=(1e-4, 1.0), needs=["real inputs"])
def inputs_too_small(setup: Setup, severity: float) -> None:
    setup.data.x.mul_(severity)
    setup.data.test_x.mul_(severity)
