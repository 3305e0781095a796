"""Depth and structure: normalization, residuals, frozen layers, plateaus, mildly vanishing gradients."""

from __future__ import annotations

from functools import partial

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from recipes.base import STEPS, Learner, Program, batches, recipe
from recipes.data import circles, digits, flat_digits, wine
from recipes.nets import adam, classify, cnn, he, mlp, regress, sgd


@recipe
def cnn_batchnorm_cosine() -> Program:
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=STEPS)
    return Program(Learner(cnn(), classify, sgd(0.1, 0.9), schedule), batches(*digits(), size=64))


@recipe
def batchnorm_input_layer() -> Program:
    """Unscaled features and a BatchNorm as first layer."""
    x, y = wine()
    raw = x * torch.logspace(-1, 3, 13) + torch.logspace(0, 3, 13)
    net = nn.Sequential(nn.BatchNorm1d(13), *he(mlp(13, 32, 3)))
    return Program(Learner(net, classify, sgd(0.05, 0.9)), batches(raw, y, size=16))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@recipe
def residual_net() -> Program:
    net = nn.Sequential(nn.Linear(64, 48), *(Block(48) for _ in range(6)), nn.Linear(48, 10))
    return Program(Learner(net, classify, adam(1e-3)), batches(*flat_digits()))


@recipe
def deep_selu() -> Program:
    net = he(mlp(64, *[64] * 16, 10, act=nn.SELU), gain=1.0)
    return Program(Learner(net, classify, adam(3e-4)), batches(*flat_digits()))


@recipe
def deep_relu_he() -> Program:
    return Program(Learner(he(mlp(64, *[96] * 12, 10)), classify, adam(3e-4)), batches(*flat_digits()))


@recipe
def deep_tanh_default_init() -> Program:
    return Program(Learner(mlp(64, *[64] * 6, 10, act=nn.Tanh), classify, adam(1e-3)), batches(*flat_digits()))


@recipe
def narrow_selu() -> Program:
    net = he(mlp(2, *[5] * 8, 2, act=nn.SELU), gain=1.0)
    return Program(Learner(net, classify, adam(1e-3)), batches(*circles(), size=128))


@recipe
def sigmoid_plateau() -> Program:
    """XOR with sigmoids: a plateau of several hundred steps before the loss decreases."""
    x = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]).repeat(64, 1)
    y = (x.sum(1, keepdim=True) == 1).float()
    net = nn.Sequential(*mlp(2, 4, 1, act=nn.Sigmoid), nn.Sigmoid())
    return Program(Learner(net, regress, adam(0.02)), batches(x, y, size=64))


@recipe
def deep_linear_saddle() -> Program:
    """Four linear layers that start near the saddle at zero (Saxe et al. 2013): a plateau, then a sudden decrease."""
    net = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(4)))
    for layer in net:
        nn.init.normal_(layer.weight, std=0.15)  # type: ignore[arg-type]
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(30))
    return Program(Learner(net, regress, sgd(0.05, 0.9)), batches(x, x @ torch.diag(torch.linspace(1, 2, 8)), size=64))


@recipe
def relu_small_init_plateau() -> Program:
    """Small initial weights: a plateau until the layers are aligned."""
    return Program(Learner(he(mlp(64, 64, 64, 64, 10), gain=0.5), classify, sgd(0.2)), batches(*flat_digits()))


@recipe
def frozen_first_layer() -> Program:
    net = he(mlp(64, 128, 64, 10))
    net[0].requires_grad_(False)  # type: ignore[index]
    return Program(Learner(net, classify, sgd(0.05, 0.9)), batches(*flat_digits()))


class Unfreeze(pl.Callback):
    """Unfreezes the first layers after a quarter of the run."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        if trainer.global_step == STEPS // 4:
            pl_module.net[:2].requires_grad_(True)  # type: ignore[index,union-attr]


@recipe
def gradual_unfreezing() -> Program:
    net = he(mlp(64, 64, 64, 10))
    learner = Learner(net, classify, lambda _: torch.optim.Adam(net.parameters(), lr=1e-3))
    net[:2].requires_grad_(False)  # type: ignore[index]
    return Program(learner, batches(*flat_digits()), callbacks=[Unfreeze()])


class NewTask(pl.Callback):
    """Other labels from the middle of the run on, as in continual learning."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: list[Tensor], *_: object):
        if trainer.global_step >= STEPS // 2:
            batch[1].copy_((batch[1] + 3) % 10)


@recipe
def second_task() -> Program:
    return Program(
        Learner(he(mlp(64, 64, 10)), classify, sgd(0.02, 0.9)), batches(*flat_digits()), callbacks=[NewTask()]
    )


@recipe
def autoencoder() -> Program:
    net = nn.Sequential(mlp(64, 32, 8), nn.ReLU(), mlp(8, 32, 64))
    return Program(Learner(net, regress, adam(2e-3)), batches(flat_digits()[0], flat_digits()[0]))


@recipe
def wide_catapult() -> Program:
    """A rate above the initial stability limit: the loss first grows (Lewkowycz et al. 2020, arXiv 2003.02218)."""
    x, y = flat_digits()
    target = nn.functional.one_hot(y, 10).float()
    return Program(Learner(he(mlp(64, 512, 10), gain=1.0), regress, sgd(1.5)), batches(x, target, size=256))
