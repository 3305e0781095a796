"""Noise is added to all weights once."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.layers import matrices
from mutants.operators import DAMAGE, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import generator, moment, on_net


def shake(weight: Tensor, severity: float, noise: torch.Generator) -> None:
    """Adds noise that is so many times as large as the weights."""
    size = severity * float(weight.square().mean().sqrt())
    weight.add_(torch.randn(weight.shape, generator=noise), alpha=size)


@operator(DAMAGE, severity=(1e-2, 1e3), onset=SUDDEN)
def weights_noisy(setup: Setup, severity: float) -> None:
    noise = generator(setup)
    on_net(setup, moment(setup), lambda net: [shake(weight, severity, noise) for weight in matrices(net)])
