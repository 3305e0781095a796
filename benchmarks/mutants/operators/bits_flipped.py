"""The highest bit of the exponent of a few weights flips once."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.layers import matrices
from mutants.operators import DAMAGE, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import moment, on_net


def flip(weights: list[Tensor], which: int, index: int) -> None:
    """Flips bit 30 of one element."""
    flat = weights[which % len(weights)].view(-1)
    flat[index % len(flat)].view(torch.int32).bitwise_xor_(1 << 30)


@operator(DAMAGE, severity=(1.0, 30.0), onset=SUDDEN)
def bits_flipped(setup: Setup, severity: float) -> None:
    bits = [(setup.random.randrange(10**6), setup.random.randrange(10**6)) for _ in range(round(severity))]
    on_net(setup, moment(setup), lambda net: [flip(matrices(net), *bit) for bit in bits])
