"""Deep tanh net with small random weights.

Symptom: the gradient of the hidden activations loses 0.4 decades a layer on its way back; the loss stands still. The
gradients of the *weights* show it less: each is an activation times the gradient behind it, and the one fades towards
the output while the other fades towards the input.
Cause: N(0, 0.05²) weights shrink a signal of 64 units by 0.4 a layer, forwards and backwards; tanh' <= 1 cannot help.
Cures: weights that keep the variance (Glorot; orthogonal, Saxe et al., 2014), ReLU with He weights, batch
normalisation, residual connections, fewer layers. Document 004 recommends "a small random distribution" against
exploding; here it is the illness.
Does not hold here: a tenfold learning rate (document 001: raise it when gradients vanish).
References: documents 002, 003, 004; Glorot and Bengio, 2010; Schoenholz et al., 2017, arXiv:1611.01232.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_net, on_optimizer, swapped
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
    title="deep tanh net with small random weights",
    kind="vanishing",
    symptom=Symptom("decades of hidden gradient lost over depth", measures.activation_fall, limit=2.0),
    rows=("S1", "S3", "S12"),
    build=build,
    cures={
        "glorot": Cure(on_net(fixes.glorot, seed=0), ("F4",)),
        "orthogonal": Cure(on_net(fixes.orthogonal, seed=0), ("F4",)),
        "relu_he": Cure(swapped(nn.ReLU, fixes.he), ("F3", "F4")),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5",)),
        "residual": Cure(on_net(fixes.add_residual, every=1), ("F6",)),
        "fewer_layers": Cure(on_net(fixes.remove_layers, keep=2), ("F8",)),
        "lr_up": Cure(on_optimizer(fixes.scale_lr, 10), ("F9",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
