"""Published programs with convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from classes import INPUTS, LARGE, SLOW, VANISHING, given, halves
from published import Pair, Program, Setup, adam, categorical, glorot, rmsprop, sgd
from sklearn.datasets import load_digits
from torch import Tensor, nn


def digits(size: int, pad: int = 0, high: float = 1.0) -> tuple[Pair, Pair]:
    """Digits up-sampled to `size`, from 0 to `high`."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16 * high
    x = F.pad(F.interpolate(x, size=(size, size)), (pad,) * 4)
    return halves(x, torch.tensor(data.target))


def life() -> Pair:
    """Fields of the Game of Life and the next ones."""
    x = (torch.rand(1500, 1, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    around = F.conv2d(F.pad(x, (1,) * 4), torch.ones(1, 1, 3, 3)) - x
    return x, ((around == 3) | ((around == 2) & (x > 0))).float()[:, :, 1:-1, 1:-1]


def cells(output: Tensor, y: Tensor) -> float:
    """Share of right cells, of those beyond the frequent answer."""
    right = float(((output > 0.5) == (y > 0.5)).float().mean())
    chance = float(1 - y.mean())
    return max(0.0, (right - chance) / (1 - chance))


def game_of_life(lr: float) -> Setup:
    layers = [nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 20, 1), nn.ReLU(), nn.Conv2d(20, 1, 1), nn.Sigmoid()]
    net = nn.Sequential(*layers)
    return Setup(glorot(net), life(), F.mse_loss, adam(lr), batch=32, epochs=8, score=cells)


def lenet(activation: type[nn.Module]) -> Setup:
    dense = [nn.Linear(256, 120), nn.Linear(120, 84), *(nn.Linear(84, 84) for _ in range(7))]
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5), activation(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), activation(), nn.MaxPool2d(2),
        nn.Flatten(), *(m for layer in dense for m in (layer, activation())), nn.Linear(84, 10), nn.Softmax(-1),
    )  # fmt: skip
    return given(digits(24, 2), glorot(net), categorical, adam(), batch=64, epochs=8)


def zero_convolution(faulty: bool) -> Setup:
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10), nn.Softmax(-1),
    )  # fmt: skip
    glorot(net)
    if faulty:
        nn.init.zeros_(net[0].weight)  # type: ignore[arg-type]
    return given(
        digits(16), net, categorical, lambda p: torch.optim.Adadelta(p, 1.0, rho=0.95, eps=1e-7), batch=48, epochs=6
    )


def vgg(optimizer, batch_norm: bool = False) -> Setup:  # type: ignore[no-untyped-def]
    """Pairs of convolutions."""

    def pair(before: int, after: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2),
        ]  # fmt: skip

    head = [nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
    net = nn.Sequential(*pair(1, 8), *pair(8, 16), *pair(16, 32), *head)
    return given(digits(16), glorot(net), F.cross_entropy, optimizer, batch=32, epochs=6)


class Residual(nn.Module):
    """A block of a residual net, He's weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def resnet(optimizer) -> Setup:  # type: ignore[no-untyped-def]
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 1), *(Residual(12) for _ in range(3)), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return given(digits(16), net, F.cross_entropy, optimizer, batch=64, epochs=5)


def raw_pixels(faulty: bool) -> Setup:
    """UMLAUT's first program: raw pixels, dropout of 0.8, logits where probabilities are wanted."""
    rate = 0.8 if faulty else 0.2
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(rate),
        nn.Conv2d(12, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.ReLU(), nn.Dropout(rate), nn.Flatten(),
        nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Dropout(rate), nn.Linear(128, 10),
    )  # fmt: skip

    def as_probabilities(output: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(output.clamp(1e-7, 1 - 1e-7).log(), y)

    loss = as_probabilities if faulty else F.cross_entropy
    return given(digits(16, high=255.0 if faulty else 1.0), glorot(net), loss, adam(), batch=64, epochs=8)


def dead_autoencoder(lr: float) -> Setup:
    """Pixels reconstructed through ReLU layers and a sigmoid."""
    data = load_digits()
    x = torch.tensor(data.data / 16, dtype=torch.float32)
    net = nn.Sequential(
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 8),
        nn.ReLU(),
        nn.Linear(8, 32),
        nn.ReLU(),
        nn.Linear(32, 64),
        nn.Sigmoid(),
    )
    return Setup(glorot(net), (x, x.clone()), F.mse_loss, adam(lr), batch=64, epochs=25)


PROGRAMS = (
    Program(
        "game_of_life", "https://github.com/alexander-travov/gol_nn", "Adam at 0.001 is too slow for the epochs",
        "Adam at 0.01", SLOW, lambda: game_of_life(3e-4), lambda: game_of_life(0.01), 0.8,
    ),
    Program(
        "lenet_of_sigmoids", "https://github.com/DeepDiagnosis/ICSE2022", "LeNet of sigmoids with seven more layers",
        "ReLU", VANISHING, lambda: lenet(nn.Sigmoid), lambda: lenet(nn.ReLU), 0.79, data="digits for MNIST",
    ),
    Program(
        "first_convolution_of_zeros", "https://github.com/dlfaults/dnn-auto-fl-empirical-assesment",
        "the first convolution begins with zeros", "Glorot's weights", ("poor_initialization", "collapsed", *SLOW),
        lambda: zero_convolution(True), lambda: zero_convolution(False), 0.8, data="digits for MNIST",
    ),
    Program(
        "cifar_of_one_class", "https://github.com/keras-team/keras/issues/4066",
        "a convolutional net under SGD predicts one class", "Adam with its default rate", (*SLOW, *VANISHING),
        lambda: vgg(sgd(0.001, 0.9)), lambda: vgg(adam()), 0.7, data="digits for CIFAR-10",
    ),
    Program(
        "residual_rate", "https://github.com/raghakot/keras-resnet/issues/18",
        "a residual net does not learn at the default rate", "a tenth of the rate, Adam", LARGE,
        lambda: resnet(rmsprop(0.5)), lambda: resnet(adam(1e-3)), 0.6, data="digits for CIFAR-10",
    ),
    Program(
        "vgg_rate", "https://github.com/FluxML/model-zoo/issues/220", "VGG stays at chance: the loss increases",
        "a smaller learning rate", LARGE, lambda: vgg(adam(0.03)), lambda: vgg(adam(3e-4)), 0.7,
        data="digits for CIFAR-10",
    ),
    Program(
        "autoencoder_rate", "https://github.com/keras-team/keras/issues/3425",
        "ReLU units die at a learning rate that is too high",
        "a smaller learning rate", (*LARGE, "poor_initialization"),
        lambda: dead_autoencoder(0.2), lambda: dead_autoencoder(0.003), 0.45, data="digits",
    ),
    Program(
        "raw_pixels", "https://github.com/BerkeleyHCI/umlaut", "raw pixels, dropout of 0.8, logits as probabilities",
        "scaled pixels, dropout of 0.2, a loss of logits", ("loss_mismatch", *INPUTS), lambda: raw_pixels(True),
        lambda: raw_pixels(False), 0.79, inside=False, data="digits for CIFAR-10",
    ),
)  # fmt: skip
