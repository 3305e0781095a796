"""Deep convolutional network without residual connections.

Symptom: with torch's default weights the gradient falls by half a decade per layer, and nothing is learned.
Cause: depth. The default variance of each layer's weights is 1/(3n), a sixth of what ReLU needs.
Cures: residual connections around every two layers (He et al., 2016), batch normalization.
Does not help here: He weights alone, and fewer layers. With either the gradient reaches the first layer, but at this
learning rate the narrow network does not learn reliably within 150 steps: with fewer layers in two of three seeds, with
He weights in none.
References: source notes 001, 003, 004 (docs/documents.md); He, Zhang, Ren and Sun, 2016, arXiv:1512.03385.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_net
from lightning_gradguard.zoo.data import digits, loaders
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import seed_torch


def build(seed: int) -> Program:
    """Thirteen 3x3 convolutions of 8 channels on 8x8 digits."""
    seed_torch(seed)
    body: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()]
    for _ in range(12):
        body += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*body, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    return Program(learner, *loaders(digits(images=True), seed, batch_size=32), max_steps=150)


CASE = Case(
    name="plain_cnn",
    title="deep convolutional network without residual connections",
    kind="vanishing",
    symptom=Symptom("decades of activation gradient lost over depth", measures.decades_lost_over_depth, limit=2.0),
    statements=("S1", "S3"),
    build=build,
    cures={
        "residual": Cure(on_net(fixes.add_residual), ("F6",)),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5",)),
        "fewer_layers": Cure(on_net(fixes.remove_layers, keep=2), ("F8",), holds=False),
        "he": Cure(on_net(fixes.he, seed=0), ("F4",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
