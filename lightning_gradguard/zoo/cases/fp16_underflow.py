"""Gradients that underflow in fp16.

Symptom: the gradient of every layer is exactly zero, although the loss and the weights are ordinary.
Cause: under fp16 autocast the backward pass runs in half precision, whose smallest number is 6e-8. Here the loss has a
weight of 1e-6, as an auxiliary loss may have.
Cures: a GradScaler, which multiplies the loss and divides the gradients (Micikevicius et al., 2018); bfloat16, which
has the range of fp32.
References: source notes 001, 003 (docs/documents.md; vanishing gradients: the loss does not change); Micikevicius et
al., 2018, arXiv:1710.03740.
"""

from __future__ import annotations

from functools import partial

import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom
from lightning_gradguard.zoo.data import digits, loaders
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import mlp, seed_torch


def scaled_down(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with a weight of 1e-6."""
    return 1e-6 * nn.functional.cross_entropy(logits, labels)


def half_precision(scaling: bool) -> dict[str, list[MixedPrecision]]:
    """fp16 autocast on the available accelerator, with or without loss scaling."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scaler = torch.amp.GradScaler(device, enabled=scaling)
    return {"plugins": [MixedPrecision("16-mixed", device, scaler)]}


def build(seed: int) -> Program:
    """Two hidden layers of 64 ReLU units on digits; Adam's eps is small enough for small gradients."""
    seed_torch(seed)
    net = mlp([64, 64, 64, 10], nn.ReLU)
    learner = classifier(net, 10, partial(torch.optim.Adam, lr=1e-3, eps=1e-16))
    learner.loss = scaled_down
    return Program(learner, *loaders(digits(), seed), max_steps=150, trainer=half_precision(scaling=False))


def with_grad_scaler(program: Program) -> fixes.Changes:
    """Adds a dynamic loss scale."""
    program.trainer = half_precision(scaling=True)
    return (fixes.Change("trainer.precision", "fp16 without loss scaling", "fp16 with a GradScaler"),)


def bfloat16(program: Program) -> fixes.Changes:
    """Replaces fp16 with bfloat16."""
    program.trainer = {"precision": "bf16-mixed"}
    return (fixes.Change("trainer.precision", "fp16 without loss scaling", "bf16"),)


CASE = Case(
    name="fp16_underflow",
    title="gradients that underflow in fp16",
    kind="stalled",
    symptom=Symptom("fraction of layers with a gradient of exactly zero", measures.zero_gradient_fraction, limit=0.5),
    statements=("S3",),
    build=build,
    cures={"grad_scaler": Cure(with_grad_scaler), "bfloat16": Cure(bfloat16)},
    metric="accuracy",
    margin=0.3,
)
