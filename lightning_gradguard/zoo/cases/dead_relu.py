"""ReLU units that output zero for every input.

Symptom: every unit of the first layer outputs zero for every sample. No gradient passes, and the loss stays constant.
Cause: biases far below the range of the inputs. A ReLU's gradient is zero wherever its output is zero.
Cures: activations with a slope on the negative side: leaky ReLU (slope 0.1 in source note 000, 0.1 or 0.2 in 003),
RReLU, ELU; tanh; re-initialized weights; batch normalization, which removes the bias.
Does not help here: PReLU and SELU revive the units, but training fails at this learning rate. A smaller learning rate
(source note 003) can keep units from dying, see `dying_relu`, but cannot revive dead ones: their gradient is zero.
References: source notes 000, 001, 003 (docs/documents.md); Maas et al., 2013; Clevert et al., 2016, arXiv:1511.07289.
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
    """Two hidden layers on digits, the first one's biases at -3."""
    net = mlp([64, 64, 32, 10], nn.ReLU)
    fixes.he(net, gain=2**0.5, seed=seed)
    with torch.no_grad():
        net.get_parameter("0.bias").fill_(-3.0)
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    return Program(learner, *loaders(digits(), seed), max_steps=200)


CASE = Case(
    name="dead_relu",
    title="ReLU units that output zero for every input",
    kind="dead_units",
    symptom=Symptom("fraction of dead hidden units", measures.dead_fraction, limit=0.4),
    statements=("S7",),
    build=build,
    cures={
        "leaky_relu": Cure(swap_activations(partial(nn.LeakyReLU, 0.1)), ("F3",)),
        "leaky_relu_0.2": Cure(swap_activations(partial(nn.LeakyReLU, 0.2)), ("F3",)),
        "prelu": Cure(swap_activations(nn.PReLU), ("F3",), holds=False),
        "rrelu": Cure(swap_activations(nn.RReLU), ("F3",)),
        "elu": Cure(swap_activations(nn.ELU), ("F3",)),
        "selu": Cure(swap_activations(nn.SELU), ("F3",), holds=False),
        "tanh": Cure(swap_activations(nn.Tanh), ("F3",)),
        "he": Cure(on_net(fixes.he, seed=0), ("F4",)),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5",)),
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 0.1), ("F9",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
