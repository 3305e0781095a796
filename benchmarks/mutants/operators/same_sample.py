"""For a while, every batch holds one sample again and again."""

from __future__ import annotations

from mutants.operators import SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_batch


@operator(["loss_increase", "loss_spike", "diverging", "collapsed"], severity=(1.0, 200.0), onset=SUDDEN)
def same_sample(setup: Setup, severity: float) -> None:
    on_batch(setup, moment(setup, round(severity)), lambda x, y: (x.copy_(x[:1].clone()), y.copy_(y[:1].clone())))
