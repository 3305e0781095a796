"""30-layer ReLU network with Glorot instead of He weights.

Symptom: signal and gradient shrink by √½ per layer, 10^-4.5 over the whole depth. Training is very slow.
Cause: Glorot's variance of 1/n does not account for ReLU, which sets half of its inputs to zero. He's is 2/n.
Cures: He weights, SELU with LeCun weights, residual connections.
Does not help here: two of the three steps of source note 001 against vanishing gradients in a ReLU network. With PReLU
alone and torch's slope of 0.25 the gradient still shrinks by √((1 + 0.25²)/2) = 0.73 per layer. With batch
normalization "straight away" it *explodes* by √(π/(π - 1)) = 1.21 per layer (Yang et al., 2019; measured: 1.20), and
the accuracy ends at 0.1. The other step, better initial weights, works.
An error in source note 000: it gives the variance for ReLU as 1/n_in, which is LeCun's. He's is 2/n_in, with the
uniform bound √(6/n_in).
References: source notes 000, 001, 004 (docs/documents.md); He et al., 2015, arXiv:1502.01852; Klambauer et al., 2017,
arXiv:1706.02515; Yang et al., 2019, "A mean field theory of batch normalization", arXiv:1902.08129.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_net, swap_activations
from lightning_gradguard.zoo.data import digits, loaders
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import mlp


def build(seed: int) -> Program:
    """Thirty hidden layers of 64 ReLU units on digits."""
    net = mlp([64, *[64] * 30, 10], nn.ReLU)
    fixes.glorot(net, gain=1.0, seed=seed)
    learner = classifier(net, 10, partial(torch.optim.Adam, lr=5e-4))
    return Program(learner, *loaders(digits(), seed), max_steps=200)


CASE = Case(
    name="relu_glorot",
    title="30-layer ReLU network with Glorot instead of He weights",
    kind="no_progress",
    symptom=Symptom("decades of activation gradient lost over depth", measures.decades_lost_over_depth, limit=2.0),
    statements=("S1", "S3", "S11"),
    build=build,
    cures={
        "he": Cure(on_net(fixes.he, seed=0), ("F4", "F14")),
        "selu_lecun": Cure(swap_activations(nn.SELU, fixes.lecun), ("F3", "F4")),
        "residual": Cure(on_net(fixes.add_residual), ("F6",)),
        "prelu": Cure(swap_activations(nn.PReLU), ("F3", "F14"), holds=False),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5", "F14"), holds=False),
    },
    metric="accuracy",
    margin=0.2,
)
