"""Chain of single ReLU units with weights around 1.5, the DeepReLUNetwork of source note 002.

Symptom: the gradient of the intermediate results, read by hooks, grows by 1.5 per layer towards the input. The first
steps are so large that the chain dies or overflows, and it outputs a constant from then on.
Cause: N(1.5, 0.1²) weights, zero biases and only positive inputs, so that nothing limits the product.
Cures: clipping by norm at 2, the value of source note 000.
Does not help here: the remedy of note 002 itself, He weights with a bias of 0.01. In a chain one unit wide every
negative weight kills the chain: with L layers a fraction of 1 - 2^-L of the initializations is dead (Lu et al., 2019),
99.9 % for ten layers. In wide layers He weights do help, see `exploding_relu`.
References: source note 002 (docs/documents.md); Lu, Shin, Su and Karniadakis, 2019, arXiv:1903.06733.
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
    """Ten ReLU units in a row, trained on y = 2x on [0, 1]."""
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
    symptom=Symptom("final loss / initial loss", measures.final_loss_ratio, limit=1e-2),
    statements=("S2", "S4", "S12"),
    build=build,
    cures={
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 2.0), ("F1",)),
        "he": Cure(on_net(fixes.he, bias=0.01, seed=0), ("F4",), holds=False),
    },
    metric="R2",
    margin=0.5,
)
