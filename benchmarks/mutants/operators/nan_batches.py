"""A few batches in a row hold a NaN."""

from __future__ import annotations

import math

from mutants.operators import SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_batch


@operator(["nonfinite", "bad_batch"], severity=(1.0, 60.0), needs=["real inputs"], onset=SUDDEN)
def nan_batches(setup: Setup, severity: float) -> None:
    on_batch(setup, moment(setup, round(severity)), lambda x, y: x.view(-1)[:1].fill_(math.nan))
