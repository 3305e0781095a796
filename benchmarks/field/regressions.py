"""Published programs that predict numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from classes import INPUTS, LARGE, LOSS, SLOW
from published import Pair, Program, Setup, adam, glorot, rmsprop, sgd
from sklearn.datasets import make_regression
from torch import Tensor, nn

TARGETS = ("unnormalized_target", *INPUTS, *LARGE, *SLOW)


def standard(t: Tensor) -> Tensor:
    return (t - t.mean(0)) / t.std(0)


def keypoints() -> Pair:
    """A bright blob in an image; the targets are its scaled place, fifteen times."""
    generator = torch.Generator().manual_seed(0)
    at = 8 + 16 * torch.rand(256, 2, generator=generator)
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"), -1)
    images = (-(grid[None] - at[:, None, None]).square().sum(-1) / 30).exp()
    x = images.flatten(1) + 0.05 * torch.rand(256, 1024, generator=generator)
    return x, ((at - 16) / 16).repeat(1, 15)


def keypoint_net() -> nn.Module:
    return glorot(nn.Sequential(nn.Linear(1024, 50), nn.Linear(50, 100), nn.Linear(100, 30)))


def regression() -> Pair:
    x, y = make_regression(1000, 20, noise=0.1, random_state=1)
    return torch.tensor(x[:500], dtype=torch.float32), torch.tensor(y[:500, None], dtype=torch.float32)


def large_targets(**more) -> Setup:  # type: ignore[no-untyped-def]
    net = nn.Sequential(nn.Linear(20, 25), nn.ReLU(), nn.Linear(25, 1))
    nn.init.kaiming_uniform_(net[0].weight)
    return Setup(net, regression(), F.mse_loss, sgd(0.01, 0.9), batch=32, epochs=50, **more)


def growing(lr: float) -> Setup:
    """One linear map on inputs up to 800, summed squares."""
    generator = torch.Generator().manual_seed(4)
    x = 800 * torch.rand(1, 80, generator=generator)
    y = torch.rand(1, 20, generator=generator) * 10
    net = nn.Linear(80, 20)
    return Setup(net, (x, y), lambda output, t: (output - t).square().sum(), sgd(lr), batch=1, epochs=300)


def line() -> Pair:
    x = torch.linspace(0, 10, 201)[:, None]
    return x, 10 * x + 3 + 0.5 * torch.randn(201, 1, generator=torch.Generator().manual_seed(5))


def bounded_output(faulty: bool) -> Setup:
    layers = [nn.Linear(1, 5), nn.Sigmoid(), nn.Linear(5, 1), *([nn.Sigmoid()] if faulty else [])]
    return Setup(glorot(nn.Sequential(*layers)), line(), F.mse_loss, sgd(0.01), batch=201, epochs=1000)


def power(exponent: int, scaled: bool, net: nn.Module, optimizer, epochs: int, **more) -> Setup:  # type: ignore[no-untyped-def]
    x = torch.linspace(-100, 100, 400)[:, None]
    y = x**exponent
    return Setup(net, (standard(x), standard(y)) if scaled else (x, y), F.mse_loss, optimizer, epochs=epochs, **more)


def cubic(scaled: bool) -> Setup:
    x = torch.arange(0, 4000, 8.0)[:, None]
    y = x**3
    net = nn.Sequential(nn.Linear(1, 50), nn.ReLU(), nn.Linear(50, 1))
    data = (standard(x), standard(y)) if scaled else (x, y)
    return Setup(net, data, F.mse_loss, adam(), batch=500, epochs=800)


def fourth_power_net() -> nn.Module:
    return glorot(nn.Sequential(nn.Linear(1, 50), nn.Sigmoid(), nn.Linear(50, 50), nn.ELU(), nn.Linear(50, 1)))


def linear_diverges(scaled: bool) -> Setup:
    """Two linear layers on x squared plus 3, x from 0 to 99."""
    x = torch.arange(100.0)[:, None]
    y = x.square() + 3
    net = glorot(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))
    return Setup(net, (standard(x), standard(y) if scaled else y), F.mse_loss, sgd(0.01), batch=32, epochs=150)


def house_prices(faulty: bool) -> Setup:
    """Prices in hundreds of thousands, areas in thousands."""
    generator = torch.Generator().manual_seed(6)
    x = torch.stack([800 + 3000 * torch.rand(400, generator=generator),
                     1 + (5 * torch.rand(400, generator=generator)).floor()], 1)  # fmt: skip
    y = (130 * x[:, :1] + 1e4 * x[:, 1:] + 5e3 * torch.randn(400, 1, generator=generator)) / 1e5
    net = nn.Linear(2, 1)
    lr, data = (1e-3, (x, y)) if faulty else (0.1, (standard(x), y))
    return Setup(net, data, F.mse_loss, sgd(lr), batch=400, epochs=200)


def broadcast(faulty: bool) -> Setup:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(400, 4, generator=generator)
    y = (x @ torch.tensor([1.0, -2.0, 0.5, 3.0])) / 3
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))

    def loss(output: Tensor, t: Tensor) -> Tensor:
        return F.mse_loss(output, t[:, 0] if faulty else t)

    return Setup(net, (x, y[:, None]), loss, adam(0.01), batch=32, epochs=20)


def boxes(lr: float) -> Setup:
    """A box on a noisy image; the target is its place."""
    generator = torch.Generator().manual_seed(8)
    at = torch.randint(2, 24, (480, 2), generator=generator)
    x = 0.1 * torch.rand(480, 1, 32, 32, generator=generator)
    for image, (i, j) in zip(x, at.tolist(), strict=True):
        image[0, i : i + 6, j : j + 6] = 1.0
    net = nn.Sequential(
        nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2),
        nn.ReLU(), nn.Flatten(), nn.Linear(512, 100), nn.ReLU(), nn.Linear(100, 2),
    )  # fmt: skip
    return Setup(glorot(net), (x, at / 13 - 1), F.mse_loss, adam(lr), batch=32, epochs=12)


PROGRAMS = (
    Program(
        "keypoints", "https://github.com/ShyamPoovaiah/FacialKeypointsDetection", "Adam at 0.1 on three linear layers",
        "SGD at 0.01 with momentum and clipping", LARGE,
        lambda: Setup(keypoint_net(), keypoints(), F.mse_loss, adam(0.1), epochs=40),
        lambda: Setup(
            keypoint_net(), keypoints(), F.mse_loss, sgd(0.01, 0.9, True), epochs=40,
            options={"gradient_clip_val": 1.0},
        ), 0.78, data="images of one bright blob for faces",
    ),
    Program(
        "large_targets",
        "https://machinelearningmastery.com/how-to-avoid-exploding-gradients-in-neural-networks-with-gradient-clipping",
        "targets up to 400 are not scaled: NaN", "gradients clipped at 1", TARGETS, large_targets,
        lambda: large_targets(options={"gradient_clip_val": 1.0}), 0.79,
    ),
    Program(
        "growing_loss", "https://stats.stackexchange.com/q/594738", "each step doubles the error", "a smaller rate",
        LARGE, lambda: growing(1e-6), lambda: growing(2e-8), 0.8,
    ),
    Program(
        "boxes", "https://stats.stackexchange.com/q/261704", "Adam at 0.01: the net predicts the mean",
        "Adam at 0.0005", (*LARGE, "poor_initialization"), lambda: boxes(0.03), lambda: boxes(0.0005), 0.8,
        data="generated as described",
    ),
    Program(
        "fourth_power", "https://stackoverflow.com/q/52800582",
        "inputs up to 100 and targets up to 1e8 do not fit the initial weights", "both scaled", TARGETS,
        lambda: power(4, False, fourth_power_net(), rmsprop(1e-3), 200),
        lambda: power(4, True, fourth_power_net(), rmsprop(1e-3), 200), 0.8, inside=False,
    ),
    Program(
        "cubic", "https://discuss.pytorch.org/t/96648", "targets up to 6e10, inputs up to 4,000, neither scaled",
        "both standardized", TARGETS, lambda: cubic(False), lambda: cubic(True), 0.8, inside=False,
    ),
    Program(
        "linear_layers_diverge", "https://stats.stackexchange.com/q/418955",
        "targets up to 10,000 are not scaled: SGD diverges", "scaled targets, or a much smaller rate", TARGETS,
        lambda: linear_diverges(False), lambda: linear_diverges(True), 0.7,
    ),
    Program(
        "weights_skyrocket",
        "https://datascience.stackexchange.com/questions/15962/"
        "why-is-learning-rate-causing-my-neural-networks-weights-to-skyrocket",
        "a learning rate of 0.001 is too large for inputs in thousands: the loss grows to infinity",
        "a far smaller rate, or scaled inputs", (*LARGE, *INPUTS), lambda: house_prices(True),
        lambda: house_prices(False), 0.8, data="areas and prices made up",
    ),
    Program(
        "bounded_output", "https://stackoverflow.com/q/48221692", "a sigmoid at the output for targets up to 103",
        "a linear output", LOSS, lambda: bounded_output(True), lambda: bounded_output(False), 0.6, inside=False,
    ),
    Program(
        "broadcast", "https://discuss.pytorch.org/t/warning-using-a-target-size-that-is-different-to-the-input-size/45357",
        "outputs of shape (N, 1) beside targets of shape (N,): every output is compared with every target",
        "equal shapes", LOSS, lambda: broadcast(True), lambda: broadcast(False), 0.8, inside=False,
        data="a linear rule of four inputs",
    ),
)  # fmt: skip
