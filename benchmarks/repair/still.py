"""Networks that never start to learn: depth, activations, initialization, inputs."""

from __future__ import annotations

from functools import partial

import torch
from cases import Built, accuracy, case, explained
from recipes.base import Learner, Program, batches
from recipes.data import flat_digits, generator
from recipes.nets import adam, classify, he, mlp, regress, sgd
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional as F

AUTOTRAINER = "Zhang et al. 2021 (ICSE), AUTOTRAINER"
SPLIT = 1257


class Exp(nn.Module):
    """The exponential as an activation function, as in some tutorials."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


def lecun(net: nn.Module) -> nn.Module:
    """LeCun initialization (variance 1/n), for SELU."""
    return he(net, gain=1.0)


def drawn(net: nn.Module, draw: object) -> nn.Module:
    """Initializes every weight matrix with `draw` and sets biases to zero."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            draw(layer.weight)  # type: ignore[operator]
            nn.init.zeros_(layer.bias)
    return net


def on_digits(net: nn.Module, optimizer: object, steps: int, size: int = 32, scale: float = 1.0) -> Built:
    """A classifier of handwritten digits: 1,257 for training, 540 for testing."""
    x, y = flat_digits()
    x, order = x * scale, torch.randperm(len(x), generator=generator(7))
    train, test = order[:SPLIT], order[SPLIT:]
    program = Program(Learner(net, classify, optimizer), batches(x[train], y[train], size=size))  # type: ignore[arg-type]
    return Built(program, steps, lambda module: accuracy(x[test], y[test])(module.net))


def on_rings(net: nn.Module, steps: int) -> Built:
    """Two noisy concentric rings."""
    x, y = datasets.make_circles(1000, noise=0.1, random_state=1)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(net(x).squeeze(-1), y)

    program = Program(Learner(net, loss, adam(1e-3)), batches(x[:700], y[:700], size=128))
    return Built(program, steps, lambda module: accuracy(x[700:], y[700:])(module.net))


@case(["vanishing gradient", "saturation", "bad initialization"], 0.75, AUTOTRAINER)
def rings_of_sigmoids(broken: bool) -> Built:
    sizes = [2, *[5] * 8, 1]
    return on_rings(he(mlp(*sizes, act=nn.Sigmoid)) if broken else lecun(mlp(*sizes, act=nn.SELU)), 1800)


@case(["exploding gradient", "NaN", "bad initialization"], 0.75, AUTOTRAINER)
def rings_of_exponentials(broken: bool) -> Built:
    sizes = [2, *[5] * 10, 1]
    return on_rings(he(mlp(*sizes, act=Exp)) if broken else lecun(mlp(*sizes, act=nn.SELU)), 1800)


@case(["dead ReLU", "vanishing gradient", "bad initialization"], 0.85, AUTOTRAINER)
def thirty_four_relus(broken: bool) -> Built:
    sizes = [64, *[128] * 34, 10]
    if broken:
        return on_digits(drawn(mlp(*sizes), nn.init.xavier_uniform_), adam(1e-3), 400)
    return on_digits(lecun(mlp(*sizes, act=nn.SELU)), adam(3e-4), 400)


@case(["vanishing gradient", "saturation", "bad initialization"], 0.85, "Glorot and Bengio 2010")
def twenty_sigmoids(broken: bool) -> Built:
    sizes = [64, *[64] * 20, 10]
    net = mlp(*sizes, act=nn.Sigmoid) if broken else lecun(mlp(*sizes, act=nn.SELU))
    return on_digits(net, adam(1e-3), 500)


@case(["vanishing gradient", "bad initialization", "learning rate too small"], 0.85, "He et al. 2015, arXiv 1502.01852")
def ten_relus_too_small(broken: bool) -> Built:
    net = mlp(64, *[64] * 10, 10)
    return on_digits(drawn(net, partial(nn.init.normal_, std=0.02)) if broken else he(net), sgd(0.02, 0.9), 400)


@case(
    ["bad initialization", "saturation", "exploding gradient"], 0.9, "DeepCrime mutant: constant weights", layer="net.0"
)
def ones_before_tanh(broken: bool) -> Built:
    net = drawn(mlp(64, 64, 10, act=nn.Tanh), nn.init.xavier_normal_)
    nn.init.ones_(net[0].weight) if broken else None
    return on_digits(net, sgd(0.05, 0.9), 300, size=64)


@case(["bad initialization", "vanishing gradient", "zero gradient", "dead ReLU"], 0.9, "DeepCrime mutant: zero weights")
def zeros_everywhere(broken: bool) -> Built:
    net = mlp(64, 64, 64, 10)
    return on_digits(drawn(net, nn.init.zeros_) if broken else he(net), sgd(0.05, 0.9), 300, size=64)


@case(["exploding gradient", "NaN", "bad initialization"], 0.85, "He et al. 2015, arXiv 1502.01852")
def relus_of_mean_three_halves(broken: bool) -> Built:
    net = mlp(64, *[32] * 10, 10)
    return on_digits(
        drawn(net, partial(nn.init.normal_, mean=1.5)) if broken else he(net), sgd(0.02, 0.9), 500, size=64
    )


@case(["dead ReLU", "vanishing gradient", "bad initialization"], 0.9, "Lu et al. 2019, arXiv 1903.06733", layer="net.0")
def biases_of_minus_ten(broken: bool) -> Built:
    net = he(mlp(64, 64, 64, 10))
    nn.init.constant_(net[0].bias, -10.0) if broken else None
    return on_digits(net, adam(2e-3), 300, size=64)


@case(["raw input", "learning rate too large", "dead ReLU"], 0.85, "StackOverflow 44066044", layer="net.0")
def raw_wine(broken: bool) -> Built:
    x, y = (torch.tensor(part) for part in datasets.load_wine(return_X_y=True))
    x, order = x.float(), torch.randperm(len(x), generator=generator(7))
    train, test = order[:124], order[124:]
    x = x if broken else (x - x[train].mean(0)) / x[train].std(0)
    program = Program(Learner(he(mlp(13, 32, 32, 3)), classify, sgd(0.05, 0.9)), batches(x[train], y[train], size=16))
    return Built(program, 300, lambda module: accuracy(x[test], y[test])(module.net))


@case(
    ["vanishing gradient", "saturation", "learning rate too small", "bad initialization"],
    0.7,
    "Hinton and Salakhutdinov 2006",
)
def deep_autoencoder(broken: bool) -> Built:
    x = flat_digits()[0]
    act = nn.Sigmoid if broken else nn.SELU
    net = mlp(64, 128, 64, 32, 8, 32, 64, 128, 64, act=act)
    net = drawn(net, partial(nn.init.normal_, std=0.1)) if broken else lecun(net)
    program = Program(Learner(net, regress, adam(1e-3)), batches(x[:SPLIT], x[:SPLIT], size=64))
    return Built(program, 600, lambda module: explained(x[SPLIT:], x[SPLIT:])(module.net))


@case(["zero gradient"], 0.95, "StackOverflow 31880720", curable=False)
def softmax_of_one(broken: bool) -> Built:
    y = torch.arange(1024) % 2
    x = y[:, None].float().expand(-1, 64).clone()
    net = nn.Sequential(mlp(64, 50, 50, 1), nn.Softmax(-1) if broken else nn.Sigmoid())

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy(net(x).squeeze(-1), y.float())

    program = Program(Learner(net, loss, adam(1e-3)), batches(x, y))
    return Built(program, 100, lambda module: accuracy(x, y)(lambda_logit(module.net)))


def lambda_logit(net: nn.Module) -> nn.Module:
    """The network with its probability shifted by 0.5, so that the threshold is 0."""

    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return net(x) - 0.5

    return Shifted()
