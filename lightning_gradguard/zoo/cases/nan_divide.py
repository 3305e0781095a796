"""0/0 in a custom standardization.

Symptom: loss and gradients are NaN from the first step.
Cause: pixels at the corners of the digits are 0 in every image, so (x - mean) / std is 0/0 there.
Cures: input normalization that leaves constant features at zero.
Does not help here: clipping and a smaller learning rate.
References: source notes 001 (the loss becomes NaN) and 002 (normalize the inputs), see docs/documents.md.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_optimizer
from lightning_gradguard.zoo.data import digits, loaders
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import mlp, seed_torch


def build(seed: int) -> Program:
    """A hidden layer of 64 ReLU units on digits, after a division by standard deviations, some of which are zero."""
    seed_torch(seed)
    train, valid = loaders(digits(), seed)
    pixels: Tensor = train.dataset.tensors[0]  # type: ignore[attr-defined]
    standardize = fixes.Standardize(pixels.mean(0), pixels.std(0))
    net = nn.Sequential(standardize, *mlp([64, 64, 10], nn.ReLU))
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    return Program(learner, train, valid, max_steps=150)


def normalize(program: Program) -> fixes.Changes:
    """The same statistics, except for constant features."""
    program.net[0] = nn.Identity()  # type: ignore[operator]
    return fixes.normalize_inputs(program.net, program.train)


CASE = Case(
    name="nan_divide",
    title="0/0 in a custom standardization",
    kind="nonfinite",
    symptom=Symptom("fraction of steps with NaN or Inf", measures.nonfinite_fraction, limit=0.0),
    statements=("S5",),
    build=build,
    cures={
        "normalize": Cure(normalize, ("F13",)),
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 1.0), ("F1",), holds=False),
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 0.1), ("F9",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
