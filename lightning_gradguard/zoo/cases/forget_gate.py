"""LSTM whose forget gate begins closed.

Symptom: the gradient fades through time although there is a cell path: its gate multiplies it at every step.
Cause: a forget bias of -3, so that 0.05 of the cell survives a step. Document 003 (point 5) notes that a gate near 0
cuts the flow on purpose when the data ask for it; as a start it is a fault.
Cures: a forget bias of 3.
Does not hold here: torch's default of about 0, and the usual 1: over thirty steps they keep 0.5^30 and 0.73^30 of the
state.
References: document 003; Gers, Schmidhuber and Cummins, 2000; Jozefowicz et al., 2015.
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
from lightning_gradguard.zoo.nets import LastStep, seeded


def build(seed: int) -> Program:
    """24 LSTM units that name, after 30 steps, which of four symbols came first."""
    seeded(seed)
    net = LastStep(DropInLSTM(5, 24, batch_first=True), 4)
    fixes.set_forget_bias(net, -3.0)
    learner = classifier(net, 4, partial(torch.optim.Adam, lr=2e-3))
    return Program(learner, *loaders(temporal_order(seed, length=30), seed), max_steps=250)


CASE = Case(
    name="forget_gate",
    title="LSTM whose forget gate begins closed",
    kind="vanishing_through_time",
    symptom=Symptom("decades of gradient lost through time", measures.time_fade, limit=4.0),
    rows=("S9",),
    build=build,
    cures={
        "bias_3": Cure(lambda program: fixes.set_forget_bias(program.net, 3.0), ("F7",)),
        "bias_0": Cure(lambda program: fixes.set_forget_bias(program.net, 0.0), ("F7",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
