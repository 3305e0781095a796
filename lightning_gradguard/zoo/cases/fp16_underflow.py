"""Gradients too small for fp16.

Symptom: the gradient of every layer is exactly zero, although loss and weights are ordinary.
Cause: under fp16 autocast backward runs in half precision, whose smallest number is 6e-8; here the loss is weighted by
1e-6, as an auxiliary loss may be.
Cures: a GradScaler, which multiplies the loss and divides the gradient (Micikevicius et al., 2018); bfloat16, which has
the range of fp32.
References: documents 001, 003 (vanishing: the loss does not move); Micikevicius et al., 2018, arXiv:1710.03740.
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
from lightning_gradguard.zoo.nets import mlp, seeded


def faint(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with a weight of 1e-6."""
    return 1e-6 * nn.functional.cross_entropy(logits, labels)


def half_precision(scaling: bool) -> dict[str, list[MixedPrecision]]:
    """fp16 autocast on the accelerator at hand, with or without loss scaling."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scaler = torch.amp.GradScaler(device, enabled=scaling)  # type: ignore[attr-defined]
    return {"plugins": [MixedPrecision("16-mixed", device, scaler)]}


def build(seed: int) -> Program:
    """Two hidden layers of 64 ReLU units on digits; Adam's eps is small enough for small gradients."""
    seeded(seed)
    net = mlp([64, 64, 64, 10], nn.ReLU)
    learner = classifier(net, 10, partial(torch.optim.Adam, lr=1e-3, eps=1e-16))
    learner.loss = faint
    return Program(learner, *loaders(digits(), seed), max_steps=150, trainer=half_precision(scaling=False))


def scaled(program: Program) -> fixes.Changes:
    """A dynamic loss scale."""
    program.trainer = half_precision(scaling=True)
    return (fixes.Change("trainer.precision", "fp16, not scaled", "fp16 with a GradScaler"),)


def bfloat16(program: Program) -> fixes.Changes:
    """The same range as fp32."""
    program.trainer = {"precision": "bf16-mixed"}
    return (fixes.Change("trainer.precision", "fp16, not scaled", "bf16"),)


CASE = Case(
    name="fp16_underflow",
    title="gradients too small for fp16",
    kind="stalled",
    symptom=Symptom("share of layers with a gradient of exactly zero", measures.zero_gradient_share, limit=0.5),
    rows=("S3",),
    build=build,
    cures={"grad_scaler": Cure(scaled), "bfloat16": Cure(bfloat16)},
    metric="accuracy",
    margin=0.3,
)
