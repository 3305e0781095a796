"""A share of the labels belongs to other samples."""

from __future__ import annotations

from mutants.operators import operator
from mutants.setups import Setup


@operator(["no_progress", "weight_growth", "diverging"], severity=(1e-2, 1.0))
def labels_wrong(setup: Setup, severity: float) -> None:
    y, random = setup.data.y, setup.random
    rows = random.sample(range(len(y)), round(severity * len(y)))
    y[rows] = y[random.sample(rows, len(rows))]
