"""Numerical problems: roots, exponentials and logarithms outside their domain or range, and corrupted weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from cases import Built, case, explained
from recipes.base import Learner, Program, batches
from recipes.data import generator
from recipes.nets import adam, he, mlp, regress, sgd
from still import drawn, on_digits
from sudden import with_happening
from torch import Tensor, nn
from torch.nn import functional as F


@case(["NaN"], 0.9, "GRIST (FSE 2021): sqrt of 0")
def root_of_zero(broken: bool) -> Built:
    built = on_digits(he(mlp(64, 64, 10)), adam(2e-3), 300)

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        drift = (net(x)[:1] - net(x if broken and bool((x[0, :4] > 0.9).any()) else x.flip(0))[:1]).square().sum()
        return F.cross_entropy(net(x), y) + 1e-6 * torch.sqrt(drift + (0.0 if broken else 1e-8))

    built.program.module._loss = loss  # type: ignore[attr-defined]
    return built


@case(["NaN", "exploding gradient", "learning rate too large"], 0.6, "GRIST (FSE 2021): overflow of exp")
def rates_by_exponential(broken: bool) -> Built:
    x = torch.randn(512, 8, generator=generator(3))
    rate = (0.5 * x[:, :3].sum(1, keepdim=True) + 2).exp()
    y = torch.poisson(rate, generator=generator(4))

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.poisson_nll_loss(net(x), y, log_input=True)

    program = Program(Learner(he(mlp(8, 32, 1)), loss, sgd(0.1 if broken else 3e-4, 0.9)), batches(x, y))

    def quality(module: Any) -> float:
        with torch.no_grad():
            out = module.net(x).exp()
        return max(0.0, 1 - float((out - rate).square().mean() / rate.var())) if bool(out.isfinite().all()) else 0.0

    return Built(program, 500, quality)


@case(["NaN", "dead ReLU"], 0.9, "StackOverflow 47352366", curable=False)
def logarithm_of_relu(broken: bool) -> Built:
    built = on_digits(nn.Sequential(mlp(64, 64, 10), nn.ReLU() if broken else nn.Identity()), adam(1e-3), 400, size=64)

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(torch.log(net(x)) if broken else torch.log_softmax(net(x), -1), y)

    built.program.module._loss = loss  # type: ignore[attr-defined]
    return built


@case(["learning rate too small", "zero gradient", "saturation"], 0.8, "StackOverflow 31556268")
def xor_by_absolute_error(broken: bool) -> Built:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    net = drawn(nn.Sequential(mlp(2, 4, 1, act=nn.Sigmoid), nn.Sigmoid()), nn.init.xavier_uniform_)
    loss = (lambda net, x, y: F.l1_loss(net(x), y)) if broken else regress
    program = Program(Learner(net, loss, sgd(0.05, 0.11) if broken else adam(0.05)), batches(x, y, size=4))
    return Built(program, 1500, lambda module: explained(x, y)(module.net))


@case(["corrupt weights", "exploding gradient"], 0.9, "He et al. 2023 (ISCA)", onset=137)
def layer_times_ten_thousand(broken: bool) -> Built:
    def blow(module: nn.Module, batch: Any) -> None:
        module.net[2].weight.mul_(1e4)  # type: ignore[index,union-attr,operator]

    return with_happening(on_digits(he(mlp(64, 64, 64, 10)), adam(2e-3), 300), broken, lambda i: i == 137, blow)


@case(["corrupt weights", "NaN"], 0.9, "He et al. 2023 (ISCA)", onset=137)
def one_weight_of_nan(broken: bool) -> Built:
    def spoil(module: nn.Module, batch: Any) -> None:
        module.net[2].weight[3, 5] = math.nan  # type: ignore[index,union-attr,operator]

    return with_happening(on_digits(he(mlp(64, 64, 64, 10)), adam(2e-3), 300), broken, lambda i: i == 137, spoil)
