"""Plain RNN that must remember its first input.

Symptom: the gradient of the loss with respect to the first time step is 10^-7 of that for the last one. The gradient of
the *weights* does not vanish, because every time step adds to it. What vanishes is the part from early time steps,
which no layer's norm shows.
Cause: thirty products with the same recurrent matrix, torch's default, whose spectral radius is about 0.6.
Cures: an LSTM or GRU whose forget or update gate is open at initialization, an orthogonal recurrent matrix.
Does not help here: an LSTM or GRU with torch's default biases around 0. Its cell keeps half of the state per step, so
the gradient of the first step still vanishes. A forget bias of 1 (Jozefowicz et al., 2015) keeps 0.73 per step, which
is too little for thirty steps; a bias of 3 keeps 0.95. (With Adam at 3e-3 instead of 1e-3 the plain RNN learns this
task.)
References: source notes 001, 003, 004 (docs/documents.md); Hochreiter and Schmidhuber, 1997; Gers et al., 2000; Pascanu
et al., 2013, arXiv:1211.5063; Jozefowicz et al., 2015.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom
from lightning_gradguard.zoo.data import loaders, temporal_order
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import LastStep, seed_torch


def build(seed: int) -> Program:
    """24 tanh units that output, after 30 steps, which of four symbols came first."""
    seed_torch(seed)
    learner = classifier(LastStep(nn.RNN(5, 24, batch_first=True), 4), 4, partial(torch.optim.Adam, lr=1e-3))
    return Program(learner, *loaders(temporal_order(seed, length=30), seed), max_steps=250)


CASE = Case(
    name="vanishing_rnn",
    title="plain RNN that must remember its first input",
    kind="vanishing_through_time",
    symptom=Symptom("decades of gradient lost through time", measures.decades_lost_over_time, limit=4.0),
    statements=("S8", "S9"),
    build=build,
    cures={
        "lstm_bias_3": Cure(lambda program: fixes.replace_rnn(program.net, nn.LSTM, forget_bias=3.0), ("F7",)),
        "gru_bias_3": Cure(lambda program: fixes.replace_rnn(program.net, nn.GRU, forget_bias=3.0), ("F7",)),
        "orthogonal": Cure(lambda program: fixes.orthogonal_recurrent(program.net, seed=0), ("F4",)),
        "lstm": Cure(lambda program: fixes.replace_rnn(program.net, nn.LSTM, forget_bias=None), ("F7",), holds=False),
        "gru": Cure(lambda program: fixes.replace_rnn(program.net, nn.GRU, forget_bias=None), ("F7",), holds=False),
    },
    metric="accuracy",
    margin=0.2,
)
