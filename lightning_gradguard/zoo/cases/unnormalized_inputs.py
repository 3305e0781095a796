"""Raw features whose scales differ by factors of a thousand.

Symptom: the loss of the first steps is up to hundreds of times the initial loss. Most units die in these steps.
Cause: some features of the wines reach 1,680 and others stay below 1, so that the largest dominates the rest.
Cures: inputs standardized with the statistics of the training data.
Does not help here: BatchNorm after the first layer, a thousandth of the learning rate, Adam, and clipping. They avoid
the large losses, but do not reach the accuracy of standardized inputs.
References: source note 002 (docs/documents.md); LeCun et al., 1998, "Efficient BackProp".
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_net, on_optimizer
from lightning_gradguard.zoo.data import loaders, wine
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import mlp, seed_torch


def build(seed: int) -> Program:
    """Two hidden layers of 32 ReLU units on the raw features of the wines."""
    seed_torch(seed)
    learner = classifier(mlp([13, 32, 32, 3], nn.ReLU), 3, partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    return Program(learner, *loaders(wine(), seed, batch_size=16), max_steps=200)


CASE = Case(
    name="unnormalized_inputs",
    title="raw features whose scales differ by factors of a thousand",
    kind="unnormalized_input",
    symptom=Symptom("largest loss / first loss", measures.peak_loss_ratio, limit=10.0),
    statements=("S2", "S4"),
    build=build,
    cures={
        "normalize": Cure(lambda program: fixes.normalize_inputs(program.net, program.train), ("F13",)),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5",), holds=False),
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 1e-3), ("F9",), holds=False),
        "adam": Cure(lambda program: program.switch(torch.optim.Adam, lr=1e-3), ("F11",), holds=False),
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 1.0), ("F1",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
