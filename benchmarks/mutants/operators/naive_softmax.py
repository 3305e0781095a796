"""The cross-entropy divides exponentials, and the logits are scaled."""

from __future__ import annotations

from torch import Tensor

from mutants.operators import operator
from mutants.setups import Setup


def naive(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy that overflows."""
    shares = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return -shares.gather(-1, classes[:, None]).log().mean()


@operator(["nonfinite", "exploding", "diverging"], severity=(1.0, 1e4), needs=["classes"])
def naive_softmax(setup: Setup, severity: float) -> None:
    setup.module.loss = lambda outputs, targets: naive(severity * outputs.flatten(0, -2), targets.flatten())
