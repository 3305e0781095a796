"""sqrt(0) in a penalty: a finite loss with NaN gradients.

Symptom: the first loss is finite, but the first gradient is NaN. One step later all weights are NaN.
Cause: the derivative of sqrt at 0 is infinite, and its product with a zero gradient is NaN. Here a penalty on the norm
of the logits is combined with an output layer that is initialized to zero.
Cures: a small constant under the root.
Does not help here: clipping, which divides NaN by NaN.
References: source note 001 (docs/documents.md; the loss becomes NaN); torch's notes on autograd, "Gradients for
non-differentiable functions".
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_optimizer
from lightning_gradguard.zoo.data import digits, loaders
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import mlp, seed_torch


def penalized(logits: Tensor, labels: Tensor, eps: float = 0.0) -> Tensor:
    """Cross-entropy plus a penalty on the mean norm of the logits."""
    norm = (logits.square().sum(1) + eps).sqrt().mean()
    return nn.functional.cross_entropy(logits, labels) + 0.01 * norm


def build(seed: int) -> Program:
    """A hidden layer of 64 ReLU units on digits, and an output layer initialized to zero."""
    seed_torch(seed)
    net = mlp([64, 64, 10], nn.ReLU)
    with torch.no_grad():
        for parameter in net[-1].parameters():
            parameter.zero_()
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    learner.loss = penalized
    return Program(learner, *loaders(digits(), seed), max_steps=150)


def with_eps(program: Program) -> fixes.Changes:
    """Adds 1e-6 under the root."""
    program.module.loss = partial(penalized, eps=1e-6)
    return (fixes.Change("loss", "sqrt(x)", "sqrt(x + 1e-6)"),)


CASE = Case(
    name="nan_sqrt",
    title="sqrt(0) in a penalty: a finite loss with NaN gradients",
    kind="nonfinite",
    symptom=Symptom("fraction of steps with NaN or Inf", measures.nonfinite_fraction, limit=0.0),
    statements=("S5",),
    build=build,
    cures={
        "eps": Cure(with_eps),
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 1.0), ("F1",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
