"""The weight decay is too large."""

from __future__ import annotations

from mutants.operators import operator
from mutants.setups import Setup


@operator(["weight_decay_too_large", "no_progress", "collapsed", "vanishing", "stalled"], severity=(1e-4, 10.0))
def weight_decay(setup: Setup, severity: float) -> None:
    setup.module.options["weight_decay"] = severity
