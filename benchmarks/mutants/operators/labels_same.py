"""A share of the samples has the label of one of them."""

from __future__ import annotations

from mutants.operators import operator
from mutants.setups import Setup


@operator(["no_progress", "weight_growth", "diverging"], severity=(1e-2, 1.0))
def labels_same(setup: Setup, severity: float) -> None:
    y, random = setup.data.y, setup.random
    rows = random.sample(range(len(y)), max(1, round(severity * len(y))))
    y[rows] = y[rows[0]].clone()
