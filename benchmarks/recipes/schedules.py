"""Optimizers and learning-rate schedules with one small network on digits."""

from __future__ import annotations

from functools import partial

import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from recipes.base import STEPS, Learner, Program, batches, recipe
from recipes.data import flat_digits
from recipes.nets import adam, classify, he, mlp, sgd


def digits_mlp(optimizer, schedule=None, size: int = 32, **trainer) -> Program:
    net = he(mlp(64, 64, 64, 10))
    return Program(Learner(net, classify, optimizer, schedule), batches(*flat_digits(), size=size), trainer)


def warmup(then, steps: int):
    """A linear warmup of `steps` steps, then the schedule that `then` creates."""
    return lambda opt: SequentialLR(opt, [LinearLR(opt, 1e-3, 1.0, steps), then(opt)], [steps])


cosine = partial(lrs.CosineAnnealingLR, T_max=STEPS)


@recipe
def sgd_constant() -> Program:
    return digits_mlp(sgd(0.1))


@recipe
def momentum_cosine_to_zero() -> Program:
    return digits_mlp(sgd(0.05, 0.9), cosine)


@recipe
def nesterov_warm_restarts() -> Program:
    return digits_mlp(sgd(0.05, 0.9, nesterov=True), partial(lrs.CosineAnnealingWarmRestarts, T_0=100, T_mult=2))


@recipe
def momentum_warmup_cosine() -> Program:
    return digits_mlp(sgd(0.1, 0.9), warmup(partial(lrs.CosineAnnealingLR, T_max=STEPS - 100), 100))


@recipe
def adam_constant() -> Program:
    return digits_mlp(adam(1e-3))


@recipe
def adam_one_cycle() -> Program:
    return digits_mlp(adam(1e-3), partial(lrs.OneCycleLR, max_lr=0.01, total_steps=STEPS + 1))


@recipe
def amsgrad_exponential() -> Program:
    return digits_mlp(adam(3e-3, amsgrad=True), partial(lrs.ExponentialLR, gamma=0.985))


@recipe
def adamw_warmup_cosine() -> Program:
    return digits_mlp(partial(torch.optim.AdamW, lr=5e-3), warmup(partial(lrs.CosineAnnealingLR, T_max=STEPS - 30), 30))


@recipe
def adamw_cyclic() -> Program:
    options = {"base_lr": 1e-5, "max_lr": 5e-3, "step_size_up": 50, "cycle_momentum": False}
    return digits_mlp(partial(torch.optim.AdamW, lr=1e-5), partial(lrs.CyclicLR, **options))


@recipe
def warmup_by_epochs() -> Program:
    """A learning rate of a thousandth in the first epoch, then increasing in quarters, like `LinearLR` per epoch."""
    return digits_mlp(adam(3e-3), partial(lrs.LambdaLR, lr_lambda=lambda step: min(max(step // 56 / 4, 1e-3), 1.0)))


@recipe
def adagrad_constant() -> Program:
    return digits_mlp(partial(torch.optim.Adagrad, lr=0.05))


@recipe
def rmsprop_steps() -> Program:
    return digits_mlp(partial(torch.optim.RMSprop, lr=1e-3), partial(lrs.StepLR, step_size=300, gamma=0.1))


@recipe
def adadelta_constant() -> Program:
    return digits_mlp(partial(torch.optim.Adadelta, lr=1.0))


@recipe
def nadam_polynomial_to_zero() -> Program:
    return digits_mlp(partial(torch.optim.NAdam, lr=2e-3), partial(lrs.PolynomialLR, total_iters=STEPS, power=2.0))


@recipe
def accumulation_and_clip() -> Program:
    return digits_mlp(sgd(0.1, 0.9), size=16, accumulate_grad_batches=4, gradient_clip_val=1.0)


@recipe
def large_batch_at_the_edge_of_stability() -> Program:
    """Full-batch descent whose loss is not monotone (Cohen et al. 2021, arXiv 2103.00065)."""
    return digits_mlp(sgd(0.5), size=1797)
