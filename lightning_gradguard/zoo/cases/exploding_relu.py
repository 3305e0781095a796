"""ReLU network whose weights are too large.

Symptom: activations and gradients double with every layer. Loss and weights overflow within a few steps.
Cause: N(0, 0.5²) weights in layers of 32 units, four times He's variance of 2/32.
Cures: initialization with the right scale (He, orthogonal), batch normalization.
Does not help here: clipping by norm (at 2, source note 000) or relative to each unit's weights, a thousandth of the
learning rate, Adam, L2 regularization, a smaller batch (source note 001), and small random weights N(0, 0.05²) (source
note 004), with which the gradient vanishes. Most of them prevent the overflow, but do not repair the initial weights:
the final accuracy is 0.09 to 0.73, depending on the seed, compared with 0.88 to 0.96. This agrees with the results of
AUTOTRAINER, where clipping repaired one of 50 repaired explosions (Zhang et al., 2021).
References: source notes 001, 002, 004 (docs/documents.md); He et al., 2015, arXiv:1502.01852; Zhang et al., 2021, ICSE.
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
    """Ten hidden layers of 32 ReLU units on digits."""
    net = mlp([64, *[32] * 10, 10], nn.ReLU)
    fixes.small_random(net, std=0.5, bias=None, seed=seed)
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.02, momentum=0.9))
    return Program(learner, *loaders(digits(), seed), max_steps=300)


CASE = Case(
    name="exploding_relu",
    title="ReLU network whose weights are too large",
    kind="nonfinite",
    symptom=Symptom(
        "decades of activation gradient gained over depth", lambda r: -measures.decades_lost_over_depth(r), limit=2.0
    ),
    statements=("S2", "S4", "S5", "S11"),
    build=build,
    cures={
        "he": Cure(on_net(fixes.he, seed=0), ("F4",)),
        "orthogonal": Cure(on_net(fixes.orthogonal, seed=0), ("F4",)),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5",)),
        "small_random": Cure(lambda program: fixes.small_random(program.net, std=0.05, seed=0), ("F4",), holds=False),
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 2.0), ("F1",), holds=False),
        "clip_adaptive": Cure(on_optimizer(fixes.clip_adaptive, 0.01), ("F1",), holds=False),
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 1e-3), ("F9",), holds=False),
        "adam": Cure(lambda program: program.switch(torch.optim.Adam, lr=3e-3), ("F11",), holds=False),
        "weight_decay": Cure(on_optimizer(fixes.set_weight_decay, 1e-2), ("F2",), holds=False),
        "smaller_batch": Cure(lambda program: program.rebatch(8), ("F10",), holds=False),
    },
    metric="accuracy",
    margin=0.5,
)
