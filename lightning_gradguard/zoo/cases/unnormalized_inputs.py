"""Raw features that differ by factors of a thousand.

Symptom: the first losses are hundreds of times larger than those to come; most units die in the first steps.
Cause: features of the wines reach 1680, others stay below 1; the largest one drowns the rest.
Cures: standardised inputs, with statistics of the training data.
Does not hold here: BatchNorm behind the first layer, a thousandth of the learning rate, Adam, and clipping avoid the
crash and learn something, but not what standardised inputs reach.
References: document 002; LeCun et al., 1998, "Efficient BackProp".
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
from lightning_gradguard.zoo.nets import mlp, seeded


def build(seed: int) -> Program:
    """Two hidden layers of 32 ReLU units on raw wines."""
    seeded(seed)
    learner = classifier(mlp([13, 32, 32, 3], nn.ReLU), 3, partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    return Program(learner, *loaders(wine(), seed, batch_size=16), max_steps=200)


CASE = Case(
    name="unnormalized_inputs",
    title="raw features that differ by factors of a thousand",
    kind="unnormalized_input",
    symptom=Symptom("largest loss over the first", measures.worst_loss, limit=10.0),
    rows=("S2", "S4"),
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
