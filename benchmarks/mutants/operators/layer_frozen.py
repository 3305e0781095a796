"""One layer is not trained."""

from __future__ import annotations

from mutants.layers import one_matrix
from mutants.operators import operator
from mutants.setups import Setup


@operator(["unused", "stalled", "no_progress"])
def layer_frozen(setup: Setup, severity: float) -> None:
    frozen = one_matrix(setup)
    for parameter in setup.net.parameters():
        parameter.requires_grad_(parameter.data_ptr() != frozen.data_ptr())
