"""log(0) in a custom cross-entropy.

Symptom: the loss is inf and every gradient is NaN within the first steps.
Cause: `-log(softmax(x))` with logits more than 104 apart: the probability underflows to 0 in fp32. Here the weights
are six times too large, which makes the network that confident from the start.
Cures: `log_softmax`, which avoids the underflow (`cross_entropy` uses it), or weights of the right scale.
Does not help here: clipping and a smaller learning rate. Clipped NaN is NaN, and the loss is inf before the first step.
References: source note 001 (docs/documents.md; the loss becomes NaN); GRIST (Yan et al., 2021) lists log(0) first among
numerical bugs.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_net, on_optimizer
from lightning_gradguard.zoo.data import digits, loaders
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import mlp


def naive_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes the formula literally, which underflows."""
    probabilities = logits.softmax(1)
    return -probabilities.gather(1, labels.unsqueeze(1)).log().mean()


def build(seed: int) -> Program:
    """Two hidden layers of 64 ReLU units on digits, weights six times too large."""
    net = mlp([64, 64, 64, 10], nn.ReLU)
    fixes.he(net, gain=8.0, seed=seed)
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.003, momentum=0.9))
    learner.loss = naive_cross_entropy
    return Program(learner, *loaders(digits(), seed), max_steps=200)


def use_log_softmax(program: Program) -> fixes.Changes:
    """The same loss, computed without leaving the logarithm."""
    program.module.loss = nn.functional.cross_entropy
    return (fixes.Change("loss", "-log(softmax)", "log_softmax"),)


CASE = Case(
    name="nan_log",
    title="log(0) in a custom cross-entropy",
    kind="nonfinite",
    symptom=Symptom("fraction of steps with NaN or Inf", measures.nonfinite_fraction, limit=0.0),
    statements=("S5",),
    build=build,
    cures={
        "log_softmax": Cure(use_log_softmax),
        "he": Cure(on_net(fixes.he, seed=0), ("F4",)),
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 1.0), ("F1",), holds=False),
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 0.1), ("F9",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
