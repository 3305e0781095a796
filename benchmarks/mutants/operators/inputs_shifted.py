"""The inputs are far from zero."""

from __future__ import annotations

from mutants.operators import BAD_INPUT, operator
from mutants.setups import Setup


@operator([*BAD_INPUT, "poor_initialization", "no_progress"], severity=(0.1, 1e4), needs=["real inputs"])
def inputs_shifted(setup: Setup, severity: float) -> None:
    shift = setup.random.choice((-1.0, 1.0)) * severity
    setup.data.x.add_(shift)
    setup.data.test_x.add_(shift)
