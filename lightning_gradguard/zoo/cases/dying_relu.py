"""ReLU units that die during training, under a large learning rate.

Symptom: after a few large steps most units output zero for every input and remain so. The loss stays at chance level.
Cause: a single step moves biases and weights so far that no input activates the unit any more.
Cures: a smaller learning rate, batch normalization before the activation.
References: source notes 000, 003 (docs/documents.md); Lu et al., 2019, arXiv:1903.06733.
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
from lightning_gradguard.zoo.nets import mlp


def build(seed: int) -> Program:
    """Four hidden layers of 32 ReLU units on digits, SGD with momentum at 0.5."""
    net = mlp([64, *[32] * 4, 10], nn.ReLU)
    fixes.he(net, gain=2**0.5, seed=seed)
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.5, momentum=0.9))
    return Program(learner, *loaders(digits(), seed), max_steps=250)


CASE = Case(
    name="dying_relu",
    title="ReLU units that die under a large learning rate",
    kind="dead_units",
    symptom=Symptom("fraction of dead hidden units", measures.dead_fraction, limit=0.4),
    statements=("S7",),
    build=build,
    cures={
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 0.1), ("F9",)),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5",)),
    },
    metric="accuracy",
    margin=0.3,
)
