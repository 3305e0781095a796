"""Batches of one sample.

Symptom: the loss varies over several orders of magnitude and does not converge.
Cause: a learning rate that suits a batch, applied to the noisy gradient of a single sample.
Cures: a larger batch, a smaller learning rate, clipping by norm, Adam. (Source note 001 recommends a *smaller* batch
against exploding gradients. `lr_too_high`, `exploding_relu` and `exploding_rnn` try it, and it helps in none of them.)
Does not help here: layer normalization.
References: source notes 000, 001, 004 (docs/documents.md).
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
    """Two layers on digits, one sample at a time, SGD with momentum."""
    seed_torch(seed)
    learner = classifier(mlp([64, 64, 10], nn.ReLU), 10, partial(torch.optim.SGD, lr=0.03, momentum=0.9))
    return Program(learner, *loaders(digits(), seed, batch_size=1), max_steps=600)


CASE = Case(
    name="batch_too_small",
    title="batches of one sample",
    kind="diverging",
    symptom=Symptom("final loss / initial loss", measures.final_loss_ratio, limit=0.5),
    statements=("S4",),
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
