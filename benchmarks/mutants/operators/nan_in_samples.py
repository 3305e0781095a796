"""Some samples hold a NaN."""

from __future__ import annotations

import math

from mutants.operators import operator
from mutants.setups import Setup


@operator(["nonfinite", "bad_batch"], severity=(1e-3, 0.1), needs=["real inputs"])
def nan_in_samples(setup: Setup, severity: float) -> None:
    rows = setup.data.x.flatten(1)
    for row in setup.random.sample(range(len(rows)), max(1, round(severity * len(rows)))):
        rows[row, setup.random.randrange(rows.shape[1])] = math.nan
