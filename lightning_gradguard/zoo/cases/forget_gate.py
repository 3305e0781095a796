"""LSTM whose forget gate is closed at initialization.

Symptom: the gradient vanishes through time although the LSTM has a cell, because the forget gate multiplies it at every
step.
Cause: a forget bias of -3, so that 0.05 of the cell survives a step. Source note 003 (point 5) notes that a trained
gate near 0 cuts the gradient on purpose, where the data require it. As an initialization it is a fault.
Cures: a forget bias of 3.
Does not help here: torch's default of about 0. Over thirty steps it keeps 0.5^30 of the state, and the usual bias of 1
would keep 0.73^30.
References: source note 003 (docs/documents.md); Gers, Schmidhuber and Cummins, 2000; Jozefowicz et al., 2015.
"""

from __future__ import annotations

from functools import partial

import torch

from lightning_gradguard import fixes
from lightning_gradguard.fixes.recurrent import DropInLSTM
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom
from lightning_gradguard.zoo.data import loaders, temporal_order
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import LastStep, seed_torch


def build(seed: int) -> Program:
    """24 LSTM units that output, after 30 steps, which of four symbols came first."""
    seed_torch(seed)
    net = LastStep(DropInLSTM(5, 24, batch_first=True), 4)
    fixes.set_forget_bias(net, -3.0)
    learner = classifier(net, 4, partial(torch.optim.Adam, lr=2e-3))
    return Program(learner, *loaders(temporal_order(seed, length=30), seed), max_steps=250)


CASE = Case(
    name="forget_gate",
    title="LSTM whose forget gate is closed at initialization",
    kind="vanishing_through_time",
    symptom=Symptom("decades of gradient lost through time", measures.decades_lost_over_time, limit=4.0),
    statements=("S9",),
    build=build,
    cures={
        "bias_3": Cure(lambda program: fixes.set_forget_bias(program.net, 3.0), ("F7",)),
        "bias_0": Cure(lambda program: fixes.set_forget_bias(program.net, 0.0), ("F7",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
