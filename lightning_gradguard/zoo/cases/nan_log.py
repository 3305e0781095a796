"""log(0) in a hand-written cross-entropy.

Symptom: the loss is inf and every gradient NaN, in the first steps.
Cause: `-log(softmax(x))` with logits more than 104 apart: the probability underflows to 0 in fp32. Here weights six
times too large make the net that confident from the start.
Cures: `log_softmax`, which never leaves the logarithm (`cross_entropy` has it), or weights of the right size.
Does not hold here: clipping and a smaller learning rate. Clipping NaN gives NaN, and the loss is inf before any step.
References: document 001 (the loss becomes NaN); GRIST (Yan et al., 2021) counts log(0) first among numerical bugs.
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
    """What the formula says, and what underflows."""
    probabilities = logits.softmax(1)
    return -probabilities.gather(1, labels.unsqueeze(1)).log().mean()


def build(seed: int) -> Program:
    """Two hidden layers of 64 ReLU units on digits, weights six times too large."""
    net = mlp([64, 64, 64, 10], nn.ReLU)
    fixes.he(net, gain=8.0, seed=seed)
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.003, momentum=0.9))
    learner.loss = naive_cross_entropy
    return Program(learner, *loaders(digits(), seed), max_steps=200)


def stable(program: Program) -> fixes.Changes:
    """The same loss computed in the logarithm."""
    program.module.loss = nn.functional.cross_entropy
    return (fixes.Change("loss", "-log(softmax)", "log_softmax"),)


CASE = Case(
    name="nan_log",
    title="log(0) in a hand-written cross-entropy",
    kind="nonfinite",
    symptom=Symptom("share of steps with NaN or Inf", measures.nonfinite_share, limit=0.0),
    rows=("S5",),
    build=build,
    cures={
        "log_softmax": Cure(stable),
        "he": Cure(on_net(fixes.he, seed=0), ("F4",)),
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 1.0), ("F1",), holds=False),
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 0.1), ("F9",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
