"""Healthy but noisy runs: tiny batches, rare classes, wrong labels, heavy tails, dropout."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from recipes.base import Learner, Program, batches, recipe
from recipes.data import digits, flat_digits, generator, linear, moons, wine
from recipes.nets import adam, classify, cnn, he, mlp, regress, sgd


@recipe
def batch_of_one() -> Program:
    return Program(Learner(he(mlp(2, 32, 2)), classify, sgd(3e-3, 0.9)), batches(*moons(), size=1))


@recipe
def batch_of_one_adam() -> Program:
    return Program(Learner(mlp(64, 32, 10), classify, adam(1e-3)), batches(*flat_digits(), size=1))


@recipe
def batch_of_two() -> Program:
    return Program(Learner(he(mlp(64, 64, 10)), classify, sgd(0.01)), batches(*flat_digits(), size=2))


@recipe
def batch_of_four_with_batchnorm() -> Program:
    return Program(Learner(cnn(), classify, adam(1e-3)), batches(*digits(), size=4))


@recipe
def rare_class() -> Program:
    """One example in fifty is positive, and a batch has four."""
    x, y = flat_digits()
    rare = torch.arange(len(y))[(y == 8) & (torch.arange(len(y)) % 5 == 0)]
    keep = torch.cat([torch.arange(len(y))[y != 8], rare])
    return Program(Learner(mlp(64, 32, 2), classify, adam(1e-3)), batches(x[keep], (y[keep] == 8).long(), size=4))


@recipe
def rare_class_batch_of_one() -> Program:
    """The network predicts the frequent class with high confidence before it sees the first rare example."""
    x = torch.randn(2048, 8, generator=generator(20))
    rare = torch.rand(2048, generator=generator(21)) < 0.01
    x[rare, 0] += 4
    return Program(Learner(mlp(8, 32, 2), classify, adam(3e-3)), batches(x, rare.long(), size=1))


@recipe
def noisy_labels() -> Program:
    x, y = flat_digits()
    wrong = torch.rand(len(y), generator=generator(22)) < 0.2
    y = torch.where(wrong, torch.randint(10, y.shape, generator=generator(23)), y)
    return Program(Learner(he(mlp(64, 128, 10)), classify, sgd(0.02, 0.9)), batches(x, y))


@recipe
def heavy_tailed_targets() -> Program:
    """Regression targets with noise from a t-distribution with three degrees of freedom."""
    x, y = linear()
    chi2 = torch.randn(len(y), 3, generator=generator(24)).square().sum(1, keepdim=True)
    noise = torch.randn(len(y), 1, generator=generator(25)) * (3 / chi2).sqrt()
    return Program(Learner(mlp(8, 32, 1), regress, adam(3e-3)), batches(x, y + noise, size=16))


@recipe
def cauchy_targets_absolute_error() -> Program:
    x, y = linear()
    noise = torch.tan(torch.pi * (torch.rand(len(y), 1, generator=generator(26)) - 0.5))
    return Program(Learner(mlp(8, 32, 1), lambda net, x, y: F.l1_loss(net(x), y), adam(3e-3)), batches(x, y + noise))


@recipe
def strong_dropout() -> Program:
    return Program(Learner(mlp(64, 128, 128, 10, dropout=0.7), classify, adam(2e-3)), batches(*flat_digits(), size=64))


@recipe
def cnn_dropout() -> Program:
    return Program(Learner(cnn(norm=False, dropout=0.3), classify, sgd(0.05, 0.9)), batches(*digits()))


@recipe
def small_data_memorised() -> Program:
    """A wide network that memorizes 178 samples."""
    return Program(Learner(he(mlp(13, 256, 256, 3)), classify, sgd(0.05, 0.9)), batches(*wine(), size=16))
