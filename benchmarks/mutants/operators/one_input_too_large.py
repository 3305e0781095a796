"""One of the features is not scaled."""

from __future__ import annotations

from mutants.operators import BAD_INPUT, operator
from mutants.setups import Setup


@operator(BAD_INPUT, severity=(1.0, 1e5), needs=["real inputs"])
def one_input_too_large(setup: Setup, severity: float) -> None:
    column = setup.random.randrange(setup.data.x.shape[-1])
    setup.data.x[..., column].mul_(severity)
    setup.data.test_x[..., column].mul_(severity)
