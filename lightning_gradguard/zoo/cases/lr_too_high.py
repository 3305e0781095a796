"""Learning rate too high.

Symptom: the loss jumps between steps and ends far above its initial value.
Cause: SGD at 2.0 with momentum, at least ten times what the curvature allows.
Cures: a fiftieth of the learning rate, clipping by norm at a small value, Adam, Adagrad.
Does not help here: a smaller batch (source note 001), batch normalization (it only reduces the damage).
References: source notes 000, 001, 004 (docs/documents.md); Duchi et al., 2011; Kingma and Ba, 2015, arXiv:1412.6980.
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
    """Two hidden layers of 64 tanh units on digits, SGD with momentum at 2.0."""
    seed_torch(seed)
    learner = classifier(mlp([64, 64, 64, 10], nn.Tanh), 10, partial(torch.optim.SGD, lr=2.0, momentum=0.9))
    return Program(learner, *loaders(digits(), seed), max_steps=300)


CASE = Case(
    name="lr_too_high",
    title="learning rate too high",
    kind="diverging",
    symptom=Symptom("final loss / initial loss", measures.final_loss_ratio, limit=0.5),
    statements=("S4",),
    build=build,
    cures={
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 0.02), ("F9",)),
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 0.05), ("F1",)),
        "adam": Cure(lambda program: program.switch(torch.optim.Adam, lr=3e-3), ("F11",)),
        "adagrad": Cure(lambda program: program.switch(torch.optim.Adagrad, lr=3e-2), ("F11",)),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5",), holds=False),
        "smaller_batch": Cure(lambda program: program.rebatch(8), ("F10",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
