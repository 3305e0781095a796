"""Deep sigmoid network with N(0, 1) weights.

Symptom: layers near the output learn, layers near the input receive almost no gradient, and the loss hardly decreases.
Cause: the derivative of a sigmoid is at most 0.25, and less for the large inputs that N(0, 1) weights produce. The
gradient is multiplied by it once per layer. The factor depends on the width: in mean-field theory a layer of n units
keeps `n·E[sigmoid'^2]` of the squared gradient, so the gradient vanishes faster in narrow layers.
Cures: other activations with matching initialization, batch normalization before or after the activation (Ioffe and
Szegedy, 2015), residual connections, fewer layers. Source note 000 ranks ELU > leaky ReLU > ReLU > tanh > sigmoid and
calls BatchNorm with ReLU probably the best choice; 001, 002, 003 and 004 recommend similar lists.
Does not help here: Glorot weights alone, which the source notes recommend for sigmoid, even with a gain of 4 that
compensates for the derivative; a tenfold learning rate; Adam. docs/zoo.md has the numbers.
References: source notes 000, 001, 003 (docs/documents.md); Glorot and Bengio, 2010.
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
    """Ten hidden layers of 12 sigmoids on digits."""
    net = mlp([64, *[12] * 10, 10], nn.Sigmoid)
    fixes.small_random(net, std=1.0, bias=None, seed=seed)
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.03, momentum=0.9))
    return Program(learner, *loaders(digits(), seed), max_steps=400)


CASE = Case(
    name="deep_sigmoid",
    title="deep sigmoid network with N(0, 1) weights",
    kind="vanishing",
    symptom=Symptom("RMS gradient of the first layer / last layer", measures.first_last_ratio, limit=1e-2, above=False),
    statements=("S1", "S3", "S6"),
    build=build,
    cures={
        "elu_he": Cure(swap_activations(nn.ELU, fixes.he), ("F3", "F4")),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5",)),
        "batch_norm_after": Cure(on_net(fixes.add_batch_norm, before=False), ("F5",)),
        "residual": Cure(on_net(fixes.add_residual, every=1), ("F6",)),
        "fewer_layers": Cure(on_net(fixes.remove_layers, keep=0), ("F8",)),
        "glorot": Cure(on_net(fixes.glorot, seed=0), ("F4",), holds=False),
        "lr_up": Cure(on_optimizer(fixes.scale_lr, 10), ("F9",), holds=False),
        "adam": Cure(lambda program: program.switch(torch.optim.Adam, lr=3e-3), ("F11",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
    layers=r"net\.(0|2|4|6|8|10|12)",
)
