"""30-layer ReLU net with Glorot's weights instead of He's.

Symptom: signal and gradient shrink by √½ in every layer, 10^-4.5 over the depth; training crawls.
Cause: Glorot's variance 1/n leaves out that ReLU sets half of its inputs to zero; He's is 2/n.
Cures: He weights, SELU with LeCun weights, residual connections.
Does not hold here: two of document 001's three steps for a ReLU net that vanishes. PReLU alone: with torch's slope of
0.25 it still loses a factor of √((1 + 0.25²)/2) = 0.73 a layer. BatchNorm "straight away": thirty of them behind ReLUs
make the gradient *explode*, by √(π/(π - 1)) = 1.21 a layer (Yang et al., 2019; measured 1.20), and accuracy ends at
0.1. The second step, better initial weights, is the one that works.
A slip in document 000: ReLU's variance is given as 1/n_in, which is LeCun's; He's is 2/n_in, with the uniform bound
√(6/n_in).
References: documents 000, 001, 004; He et al., 2015, arXiv:1502.01852; Klambauer et al., 2017, arXiv:1706.02515; Yang
et al., 2019, "A mean field theory of batch normalization", arXiv:1902.08129.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_net, swapped
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
    title="30-layer ReLU net with Glorot instead of He weights",
    kind="no_progress",
    symptom=Symptom("decades of hidden gradient lost over depth", measures.activation_fall, limit=2.0),
    rows=("S1", "S3", "S11"),
    build=build,
    cures={
        "he": Cure(on_net(fixes.he, seed=0), ("F4", "F14")),
        "selu_lecun": Cure(swapped(nn.SELU, fixes.lecun), ("F3", "F4")),
        "residual": Cure(on_net(fixes.add_residual), ("F6",)),
        "prelu": Cure(swapped(nn.PReLU), ("F3", "F14"), holds=False),
        "batch_norm": Cure(on_net(fixes.add_batch_norm), ("F5", "F14"), holds=False),
    },
    metric="accuracy",
    margin=0.2,
)
