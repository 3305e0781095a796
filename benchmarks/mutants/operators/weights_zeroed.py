"""A share of the weights is set to zero once."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.layers import matrices
from mutants.operators import DAMAGE, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import generator, moment, on_net


def lose(weight: Tensor, share: float, noise: torch.Generator) -> None:
    """Sets a share of the weights to zero."""
    weight.mul_(torch.rand(weight.shape, generator=noise) >= share)


@operator([*DAMAGE, "dead_units", "stalled"], severity=(1e-2, 1.0), onset=SUDDEN)
def weights_zeroed(setup: Setup, severity: float) -> None:
    noise = generator(setup)
    on_net(setup, moment(setup), lambda net: [lose(weight, severity, noise) for weight in matrices(net)])
