"""Weights that keep growing on noisy labels.

Symptom: the norm of the weights nearly doubles while the training loss goes to zero and validation gets worse.
Cause: 30 % of the training labels are wrong, and only ever larger weights can fit them.
Cures: L2 regularization, `α‖W‖²` in the loss, here as weight decay 2α = 0.03.
References: source notes 001, 003 (docs/documents.md); Krogh and Hertz, 1991.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_optimizer
from lightning_gradguard.zoo.data import breast_cancer, loaders
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import mlp, seed_torch


def build(seed: int) -> Program:
    """Two hidden layers of 64 ReLU units on tumors, with 30 % of the training labels flipped."""
    generator = seed_torch(seed)
    x, y = breast_cancer()
    train = int(0.7 * len(x))
    flipped = torch.rand(len(y), generator=generator) < 0.3
    flipped[train:] = False
    data = ((x - x[:train].mean(0)) / x[:train].std(0), torch.where(flipped, 1 - y, y))
    learner = classifier(mlp([30, 64, 64, 2], nn.ReLU), 2, partial(torch.optim.SGD, lr=0.2))
    return Program(learner, *loaders(data, seed), max_steps=900)


CASE = Case(
    name="weight_growth",
    title="weights that keep growing on noisy labels",
    kind="weight_growth",
    symptom=Symptom("weight norm after training / before training", measures.weight_growth, limit=1.5),
    statements=("S10",),
    build=build,
    cures={"weight_decay": Cure(on_optimizer(fixes.set_weight_decay, 0.03), ("F2",))},
    metric="accuracy",
    margin=0.03,
)
