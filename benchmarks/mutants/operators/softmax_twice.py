"""The loss expects logits and receives probabilities."""

from __future__ import annotations

from mutants.operators import operator
from mutants.setups import Setup


@operator(["no_progress", "vanishing", "stalled", "collapsed"], needs=["classes"])
def softmax_twice(setup: Setup, severity: float) -> None:
    loss = setup.module.loss
    setup.module.loss = lambda outputs, targets: loss(outputs.softmax(-1), targets)
