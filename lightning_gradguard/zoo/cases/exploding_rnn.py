"""RNN whose gradient explodes through time, cured by clipping.

Symptom: the loss jumps and then stays at chance level or above. The gradient grows tenfold towards the first time step.
Cause: an orthogonal recurrent matrix with gain 1.5. Over 30 steps its linear part grows by 1.5^30 = 2e5; tanh only
dampens it.
Cures: clipping by norm at 1 (Pascanu et al., 2013), clipping by value, adaptive clipping, a tenth of the learning rate.
Does not help here, each alone and at this learning rate: L2 regularization, a smaller batch (source note 001), an LSTM
(source note 004; note 003 itself says that gates do not prevent exploding gradients).
References: source notes 000, 001, 003, 004 (docs/documents.md); Pascanu, Mikolov and Bengio, 2013, arXiv:1211.5063.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_optimizer
from lightning_gradguard.zoo.data import loaders, temporal_order
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import LastStep, seed_torch


def build(seed: int) -> Program:
    """32 tanh units that output, after 30 steps, which of four symbols came first."""
    seed_torch(seed)
    net = LastStep(nn.RNN(5, 32, batch_first=True), 4)
    fixes.orthogonal_recurrent(net, gain=1.5, seed=seed)
    learner = classifier(net, 4, partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    return Program(learner, *loaders(temporal_order(seed, length=30), seed), max_steps=250)


CASE = Case(
    name="exploding_rnn",
    title="RNN whose gradient explodes through time",
    kind="no_progress",
    symptom=Symptom("final loss / initial loss", measures.final_loss_ratio, limit=0.7),
    statements=("S2", "S4"),
    build=build,
    cures={
        "clip_norm": Cure(on_optimizer(fixes.clip_by_norm, 1.0), ("F1",)),
        "clip_value": Cure(on_optimizer(fixes.clip_by_value, 0.01), ("F1",)),
        "clip_adaptive": Cure(on_optimizer(fixes.clip_adaptive, 0.02), ("F1",)),
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 0.1), ("F9",)),
        "lstm": Cure(lambda program: fixes.replace_rnn(program.net, nn.LSTM, forget_bias=3.0), ("F7",), holds=False),
        "weight_decay": Cure(on_optimizer(fixes.set_weight_decay, 1e-2), ("F2",), holds=False),
        "smaller_batch": Cure(lambda program: program.rebatch(8), ("F10",), holds=False),
    },
    metric="accuracy",
    margin=0.3,
)
