"""Networks whose steps are too large or too small."""

from __future__ import annotations

from functools import partial

import torch
from cases import Built, accuracy, case, explained
from recipes.base import Learner, Program, batches
from recipes.data import generator
from recipes.nets import Transformer, adam, classify, he, mlp, regress, sgd
from sklearn import datasets
from still import AUTOTRAINER, drawn, on_digits
from torch import Tensor, nn
from torch.nn import functional as F


def on_blobs(net: nn.Module, optimizer: object, steps: int, size: int) -> Built:
    """Three overlapping clusters in two dimensions."""
    x, y = datasets.make_blobs(1000, centers=3, n_features=2, cluster_std=2, random_state=2)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    program = Program(Learner(net, classify, optimizer), batches(x[:700], y[:700], size=size))  # type: ignore[arg-type]
    return Built(program, steps, lambda module: accuracy(x[700:], y[700:])(module.net))


@case(["learning rate too large", "dead ReLU"], 0.8, AUTOTRAINER)
def blobs_one_by_one(broken: bool) -> Built:
    return on_blobs(he(mlp(2, 50, 3)), sgd(0.01, 0.9), 3000, 1 if broken else 32)


@case(["learning rate too small"], 0.75, AUTOTRAINER)
def blobs_too_slow(broken: bool) -> Built:
    net = drawn(mlp(2, *[5] * 5, 3, act=nn.Tanh), nn.init.xavier_normal_)
    return on_blobs(net, adam(1e-4 if broken else 1e-2), 400, 256)


@case(["learning rate too large", "NaN", "exploding gradient"], 0.85, "StackOverflow 48385830")
def two_linear_layers_at_three(broken: bool) -> Built:
    net = nn.Sequential(nn.Linear(64, 30), nn.Identity() if broken else nn.Sigmoid(), nn.Linear(30, 10))
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    built = on_digits(net, sgd(3.0 if broken else 0.5), 600, size=10)
    if broken:
        built.program.module._loss = lambda net, x, y: F.mse_loss(net(x), F.one_hot(y, 10).float())  # type: ignore[attr-defined]
    return built


@case(["learning rate too large", "exploding gradient", "dead ReLU", "NaN"], 0.7, "StackOverflow 48934338")
def parabola(broken: bool) -> Built:
    x = torch.arange(0, 5, 0.1)[:, None]
    y = 5 * x.square() + torch.randn(50, 1, generator=generator(9)) ** 3
    net = he(mlp(1, 50, 30, 1))
    program = Program(Learner(net, regress, sgd(0.1 if broken else 1e-4)), batches(x, y, size=25))
    return Built(program, 1500, lambda module: explained(x, y)(module.net))


@case(["learning rate too small"], 0.9, "StackOverflow 51181393")
def line_far_away(broken: bool) -> Built:
    x = 4 * torch.rand(256, 1, generator=generator(2))
    y = 30 * x + 80
    optimizer = partial(torch.optim.RMSprop, lr=1e-3 if broken else 0.3)
    program = Program(Learner(nn.Linear(1, 1), regress, optimizer), batches(x, y))
    return Built(program, 600, lambda module: explained(x, y)(module.net))


@case(["learning rate too small"], 0.9, "StackOverflow 50306988")
def digits_too_slow(broken: bool) -> Built:
    return on_digits(he(mlp(64, 64, 10)), sgd(1e-5 if broken else 0.1, 0.9), 300, size=64)


@case(
    ["learning rate too large", "exploding gradient", "vanishing gradient"],
    0.9,
    "Vaswani et al. 2017, arXiv 1706.03762",
)
def transformer_at_one_half(broken: bool) -> Built:
    x = torch.randint(0, 12, (4096, 8), generator=generator(6))
    y = x.roll(3, 1)

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x).flatten(0, 1), y.flatten())

    net = Transformer(12, 8)
    program = Program(Learner(net, loss, adam(0.5 if broken else 2e-3)), batches(x[:3800], y[:3800], size=64))

    def quality(module: nn.Module) -> float:
        return accuracy(x[3800:], y[3800:])(module.net)  # type: ignore[arg-type]

    return Built(program, 300, quality)


@case(["momentum too large", "learning rate too large"], 0.9, "Sutskever et al. 2013")
def momentum_of_a_thousand_steps(broken: bool) -> Built:
    return on_digits(he(mlp(64, 64, 64, 10)), sgd(0.1, 0.999 if broken else 0.9), 300, size=64)


@case(["learning rate too large", "exploding gradient", "dead ReLU"], 0.9, "DeepCrime mutant: learning rate")
def digits_at_five(broken: bool) -> Built:
    return on_digits(he(mlp(64, 64, 64, 10)), sgd(5.0 if broken else 0.1, 0.9), 300, size=64)


@case(["NaN", "learning rate too large"], 0.85, "GRIST (FSE 2021): log of 0")
def logarithm_of_softmax(broken: bool) -> Built:
    built = on_digits(he(mlp(64, 128, 10)), sgd(0.001, 0.9), 400, scale=16)

    def naive(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return -torch.log(torch.softmax(4 * net(x), -1)[torch.arange(len(y)), y]).mean()

    built.program.module._loss = naive if broken else lambda net, x, y: F.cross_entropy(4 * net(x), y)  # type: ignore[attr-defined]
    return built
