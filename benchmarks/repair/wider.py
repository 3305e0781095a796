"""Other architectures: convolutions, residual branches, attention, recurrence, a GAN."""

from __future__ import annotations

from functools import partial

import torch
from cases import Built, accuracy, case
from recipes.base import Learner, Program, batches
from recipes.data import generator, ring
from recipes.nets import Recurrent, Transformer, adam, cnn, he, mlp, predict, sgd
from recipes.objectives import GAN
from still import drawn, on_digits
from sudden import images, remember
from torch import Tensor, nn
from torch.nn import functional as F


def deep_cnn(depth: int = 12) -> nn.Module:
    """Plain 3x3 convolutions at full resolution, without normalization."""
    stages: list[nn.Module] = []
    for i in range(depth):
        stages += [nn.Conv2d(1 if i == 0 else 12, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10))


@case(["vanishing gradient", "bad initialization", "learning rate too small"], 0.85, "He et al. 2015, arXiv 1502.01852")
def twelve_small_convolutions(broken: bool) -> Built:
    net = deep_cnn()
    net = drawn(net, partial(nn.init.normal_, std=0.01)) if broken else he(net)
    return on_digits(images(net), adam(2e-3), 300)


class Residual(nn.Module):
    """x + W2 relu(W1 x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


@case(
    ["exploding gradient", "bad initialization", "learning rate too large", "NaN"],
    0.9,
    "Zhang et al. 2019, arXiv 1901.09321 (Fixup)",
)
def twenty_open_branches(broken: bool) -> Built:
    net = he(nn.Sequential(nn.Linear(64, 64), *(Residual(64) for _ in range(20)), nn.Linear(64, 10)))
    for block in net.modules():
        if isinstance(block, Residual) and not broken:
            nn.init.zeros_(block.inner[2].weight)
    return on_digits(net, sgd(0.005, 0.9), 300)


@case(["saturation", "bad initialization", "vanishing gradient"], 0.85, "Glorot and Bengio 2010")
def tanh_driven_into_its_ends(broken: bool) -> Built:
    net = mlp(64, *[64] * 6, 10, act=nn.Tanh)
    return on_digits(drawn(net, partial(nn.init.normal_, std=1.5 if broken else 0.125)), sgd(0.02, 0.9), 400)


@case(["vanishing through time", "bad initialization"], 0.9, "Pascanu et al. 2013", layer="net.cell")
def rnn_of_small_weights(broken: bool) -> Built:
    net = Recurrent(nn.RNN, 8, 48, 4)
    draw = partial(nn.init.normal_, std=0.3 / 48**0.5) if broken else nn.init.orthogonal_
    draw(net.cell.weight_hh_l0)
    nn.init.zeros_(net.cell.bias_hh_l0), nn.init.zeros_(net.cell.bias_ih_l0)
    return remember(net, 1e-3, 600, 40)


@case(["vanishing through time", "bad initialization"], 0.9, "Cho et al. 2014, arXiv 1406.1078", layer="net.cell")
def gru_that_overwrites(broken: bool) -> Built:
    net = Recurrent(nn.GRU, 8, 32, 4)
    nn.init.constant_(net.cell.bias_hh_l0[32:64].detach(), -8.0 if broken else 3.0)
    return remember(net, 3e-3, 500, 40)


@case(["learning rate too large", "collapse", "vanishing gradient"], 0.9, "Xiong et al. 2020, arXiv 2002.04745")
def post_ln_without_warmup(broken: bool) -> Built:
    x = torch.randint(0, 12, (4096, 8), generator=generator(6))
    y = x.roll(3, 1)
    net = Transformer(12, 8, norm_first=not broken)
    layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=not broken)
    net.encoder = nn.TransformerEncoder(layer, 8, None if broken else nn.LayerNorm(32), enable_nested_tensor=False)
    program = Program(Learner(net, predict, adam(2e-2 if broken else 3e-3)), batches(x[:3800], y[:3800], size=64))
    return Built(program, 400, lambda module: accuracy(x[3800:], y[3800:])(module.net))


@case(["learning rate too large", "exploding gradient", "NaN", "dead ReLU"], 0.9, "StackOverflow 37624102")
def cnn_at_one(broken: bool) -> Built:
    return on_digits(images(cnn(norm=False)), sgd(1.0 if broken else 0.05, 0.9, nesterov=True), 300)


@case(["learning rate too large", "exploding gradient", "NaN", "dead ReLU"], 0.9, "a sum where a mean was meant")
def summed_loss(broken: bool) -> Built:
    built = on_digits(he(mlp(64, 64, 64, 10)), sgd(0.05, 0.9), 300, size=64)
    if broken:
        built.program.module._loss = lambda net, x, y: F.cross_entropy(net(x), y, reduction="sum")  # type: ignore[attr-defined]
    return built


@torch.no_grad()
def on_the_ring(gan: GAN) -> float:
    """Share of a thousand generated points near a real one."""
    fake = gan.generator(torch.randn(1000, 8, generator=generator(5)))
    near = torch.cdist(fake, ring()).min(1).values < 0.3
    return float(near.double().mean())  # non-finite points are near no real one


@case(["learning rate too large", "exploding gradient", "vanishing gradient"], 0.5, "Goodfellow et al. 2014")
def critic_that_runs_away(broken: bool) -> Built:
    return Built(Program(GAN(0.3 if broken else 1e-3, broken), batches(ring(), size=64)), 2000, on_the_ring)  # type: ignore[arg-type]
