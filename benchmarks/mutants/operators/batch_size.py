"""The batches have another size."""

from __future__ import annotations

from mutants.operators import operator
from mutants.setups import Setup


@operator(["oscillating", "no_progress", "lr_too_large", "lr_too_small", "exploding"], severity=(0.05, 4.0))
def batch_size(setup: Setup, severity: float) -> None:
    setup.size = max(2, round(severity * setup.size))
