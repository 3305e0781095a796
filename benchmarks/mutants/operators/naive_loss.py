"""The logarithm of a softmax written by hand, with logits times up to 1,000."""

from __future__ import annotations

from causes import DATA, LARGE
from mutant import Draw, Operator, Program
from torch import Tensor, nn


def mutate(program: Program, draw: Draw) -> str | None:
    factor = draw.between(1, 1e3)
    if program.recipe.regression:
        return None

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        output = factor * net(x)
        powers = output.flatten(0, -2).exp()
        p = powers / powers.sum(1, keepdim=True)
        return -p.gather(1, y.reshape(-1, 1)).log().mean()

    program.loss = loss
    return f"naive logarithm, logits x {factor:.3g}"


OPERATOR = Operator("naive_loss", mutate, LARGE + DATA)
