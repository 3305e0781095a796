"""Learning rate too low.

Symptom: the loss hardly changes, although the gradients of all layers are healthy.
Cause: SGD at 1e-4.
Cures: a larger learning rate, Adam, Adagrad.
Does not help here: batch normalization.
References: source notes 001, 002, 004 (docs/documents.md); Duchi et al., 2011; Kingma and Ba, 2015, arXiv:1412.6980.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_net, on_optimizer
from lightning_gradguard.zoo.data import digits, loaders
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import mlp, seed_torch


def build(seed: int) -> Program:
    """Two hidden layers of 64 tanh units on digits, SGD at 1e-4."""
    seed_torch(seed)
    learner = classifier(mlp([64, 64, 64, 10], nn.Tanh), 10, partial(torch.optim.SGD, lr=1e-4))
    return Program(learner, *loaders(digits(), seed), max_steps=200)


CASE = Case(
    name="lr_too_low",
    title="learning rate too low",
    kind="no_progress",
    symptom=Symptom("final loss / initial loss", measures.final_loss_ratio, limit=0.5),
    statements=("S3",),
    build=build,
    cures={
        "lr_up": Cure(on_optimizer(fixes.scale_lr, 3000), ("F9",)),
        "adam": Cure(lambda program: program.switch(torch.optim.Adam, lr=1e-3), ("F11",)),
        "adagrad": Cure(lambda program: program.switch(torch.optim.Adagrad, lr=1e-2), ("F11",)),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
