"""Deep tanh network with small random weights.

Symptom: the gradient of the hidden activations falls by 0.4 decades per layer towards the input, and the loss stays
constant. The gradients of the *weights* show it less: each is the product of an activation, which fades towards the
output, and the gradient behind it, which fades towards the input.
Cause: N(0, 0.05²) weights scale the signal of 64 units by 0.4 per layer, forward and backward. tanh' <= 1 does not
compensate.
Cures: weights that preserve the variance (Glorot; orthogonal, Saxe et al., 2014), ReLU with He weights, batch
normalization, residual connections, fewer layers. Source note 004 recommends "a small random distribution" against
exploding gradients; here it is the cause of the failure.
Does not help here: a tenfold learning rate (source note 001: raise it when gradients vanish).
References: source notes 002, 003, 004 (docs/documents.md); Glorot and Bengio, 2010; Schoenholz et al., 2017,
arXiv:1611.01232.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_net, on_optimizer, swap_activations
from lightning_gradguard.zoo.data import digits, loaders
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import mlp


def build(seed: int) -> Program:
    """Fifteen hidden layers of 64 tanh units on digits, weights N(0, 0.05²)."""
    net = mlp([64, *[64] * 15, 10], nn.Tanh)
    fixes.small_random(net, std=0.05, seed=seed)
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.01, momentum=0.9))
    return Program(learner, *loaders(digits(), seed), max_steps=250)


CASE = Case(
    name="deep_tanh",
    title="deep tanh network with small random weights",
    kind="vanishing",
    symptom=Symptom("decades of activation gradient lost over depth", measures.decades_lost_over_depth, limit=2.0),
    statements=("S1", "S3", "S12"),
    build=build,
    cures={
        "glorot": Cure(on_net(fixes.glorot, seed=0), ("F4",)),
        "orthogonal": Cure(on_net(fixes.orthogonal, seed=0), ("F4",)),
        "relu_he": Cure(swap_activations(nn.ReLU, fixes.he), ("F3", "F4")),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5",)),
        "residual": Cure(on_net(fixes.add_residual, every=1), ("F6",)),
        "fewer_layers": Cure(on_net(fixes.remove_layers, keep=2), ("F8",)),
        "lr_up": Cure(on_optimizer(fixes.scale_lr, 10), ("F9",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
