"""An activation follows the last layer."""

from __future__ import annotations

from torch import nn

from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup


@operator([*BAD_WEIGHTS, "unsuited_activation", "no_progress", "stalled"])
def output_activated(setup: Setup, severity: float) -> None:
    last = setup.random.choice((nn.ReLU, nn.Sigmoid, nn.Tanh))()
    setup.module.net = nn.Sequential(setup.net, last)
