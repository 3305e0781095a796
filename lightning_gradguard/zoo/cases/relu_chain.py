"""Chain of single ReLU units with weights around 1.5: document 002's DeepReLUNetwork.

Symptom: the gradient of each intermediate result, read by hooks, grows by 1.5 for every layer on its way back; the
first steps are so large that the chain dies or overflows, and it outputs a constant ever after.
Cause: N(1.5, 0.1²) weights, zero biases and only positive inputs: nothing stops the product.
Cures: clipping by norm at 2, the number of document 000.
Does not hold here: the document's own remedy, He weights with a bias of 0.01. In a chain one unit wide every
negative weight kills it for good: with L layers a share of 1 - 2^-L of the draws is born dead (Lu et al., 2019), 99.9 %
for ten. In wide layers it does hold, see `exploding_relu`.
References: document 002; Lu, Shin, Su and Karniadakis, 2019, arXiv:1903.06733.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_net, on_optimizer
from lightning_gradguard.zoo.data import loaders
from lightning_gradguard.zoo.learner import regressor
from lightning_gradguard.zoo.nets import mlp


def build(seed: int) -> Program:
    """Ten ReLU units in a row that are to learn y = 2x on [0, 1]."""
    net, generator = mlp([1] * 11, nn.ReLU), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.normal_(1.5, 0.1, generator=generator) if "weight" in name else parameter.zero_()
    x = torch.rand(1000, 1, generator=generator)
    return Program(regressor(net, partial(torch.optim.SGD, lr=0.01)), *loaders((x, 2 * x), seed), max_steps=300)


CASE = Case(
    name="relu_chain",
    title="chain of single ReLU units with weights around 1.5",
    kind="dead_units",
    symptom=Symptom("late loss over the early one", measures.loss_left, limit=1e-2),
    rows=("S2", "S4", "S12"),
    build=build,
    cures={
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 2.0), ("F1",)),
        "he": Cure(on_net(fixes.he, bias=0.01, seed=0), ("F4",), holds=False),
    },
    metric="R2",
    margin=0.5,
)
