"""Deep sigmoid network, pre-trained as a stack of restricted Boltzmann machines.

Symptom: with small random weights the gradient falls by almost four decades over four sigmoid layers, and the network
outputs the class frequencies.
Cause: as in `deep_sigmoid`.
Cures: greedy layer-wise pre-training, in which each layer is an RBM trained by CD-1 on the outputs of the layer below,
followed by supervised fine-tuning (Hinton et al., 2006); Glorot weights with gain 4. Both work, so pre-training is no
longer necessary, as source note 003 says.
Does not help here: ELU with He weights, at the learning rate that suits sigmoids; two of three seeds diverge.
References: source notes 003, 004 (docs/documents.md); Hinton, Osindero and Teh, 2006; Bengio et al., 2007; Hinton,
2010.
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
    """Four hidden layers of 100 sigmoids on digits, weights N(0, 0.05²)."""
    net = mlp([64, *[100] * 4, 10], nn.Sigmoid)
    fixes.small_random(net, std=0.05, seed=seed)
    learner = classifier(net, 10, partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    return Program(learner, *loaders(digits(), seed), max_steps=400)


def pretrained(program: Program) -> fixes.Changes:
    """CD-1 for 30 epochs per layer, without labels."""
    pixels = torch.cat([inputs for inputs, _ in program.train])
    return fixes.pretrain(program.net, pixels, epochs=30, progress=False)


CASE = Case(
    name="deep_belief_network",
    title="deep sigmoid network, pre-trained as a stack of RBMs",
    kind="vanishing",
    symptom=Symptom("RMS gradient of the first layer / last layer", measures.first_last_ratio, limit=1e-2, above=False),
    statements=("S1", "S3"),
    build=build,
    cures={
        "rbm_cd1": Cure(pretrained, ("F12",)),
        "glorot": Cure(on_net(fixes.glorot, seed=0), ("F4",)),
        "elu_he": Cure(swap_activations(nn.ELU, fixes.he), ("F3", "F4"), holds=False),
    },
    metric="accuracy",
    margin=0.3,
    layers=r"net\.(0|2|4)",
)
