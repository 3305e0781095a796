"""Batches of one sample.

Symptom: every step follows one sample; the loss is scattered over decades and does not set_permanent.
Cause: the noise of a single sample's gradient at a learning rate made for a batch.
Cures: a larger batch, a smaller learning rate, clipping by norm, Adam. (Document 001 advises a *smaller* batch against
explosion: `lr_too_high`, `exploding_relu` and `exploding_rnn` try it, and it cures none of them.)
Does not hold here: layer normalisation.
References: documents 000, 001, 004.
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
from lightning_gradguard.zoo.nets import mlp, seeded


def build(seed: int) -> Program:
    """Two layers on digits, one sample at a time, SGD with momentum."""
    seeded(seed)
    learner = classifier(mlp([64, 64, 10], nn.ReLU), 10, partial(torch.optim.SGD, lr=0.03, momentum=0.9))
    return Program(learner, *loaders(digits(), seed, batch_size=1), max_steps=600)


CASE = Case(
    name="batch_too_small",
    title="batches of one sample",
    kind="diverging",
    symptom=Symptom("late loss over the early one", measures.loss_left, limit=0.5),
    rows=("S4",),
    build=build,
    cures={
        "larger_batch": Cure(lambda program: program.rebatch(64)),
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 0.1), ("F9",)),
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 1.0), ("F1",)),
        "adam": Cure(lambda program: program.switch(torch.optim.Adam, lr=1e-3), ("F11",)),
        "layer_norm": Cure(on_net(fixes.add_layer_norm), ("F5",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
