"""Published programs that classify tables and points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from published import (
    Pair,
    Program,
    Setup,
    adam,
    binary,
    categorical,
    glorot,
    of_logit,
    one_hot,
    sgd,
    uniform,
)
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_blobs, make_circles
from torch import Tensor, nn

LOCALIZE = "https://github.com/Wardat-ISU/DeepLocalize"
AUTOTRAINER = "https://github.com/shiningrain/AUTOTRAINER"
SLOW = ("lr_too_small", "no_progress", "stalled", "collapsed", "poor_initialization")
LARGE = (
    "lr_too_large", "exploding", "overshooting", "nonfinite", "diverging", "oscillating", "dead_units", "loss_spike",
    "damaged_weights", "collapsed",
)  # fmt: skip
INPUTS = ("unnormalized_input",)
VANISHING = ("vanishing", "poor_initialization", "unsuited_activation", "collapsed", "saturated", "no_progress")
LOSS = ("loss_mismatch",)


def halves(x: Tensor, y: Tensor) -> tuple[Pair, Pair]:
    """Four fifths for training, the rest held out, shuffled."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    cut = int(0.8 * len(x))
    return (x[order[:cut]], y[order[:cut]]), (x[order[cut:]], y[order[cut:]])


def digits() -> tuple[Pair, Pair]:
    """8 x 8 pixels, 0 to 16."""
    data = load_digits()
    return halves(torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target))


def scaled(pairs: tuple[Pair, Pair]) -> tuple[Pair, Pair]:
    """Inputs standardized by the training half."""
    (x, y), (other, targets) = pairs
    mean, std = x.mean(0), x.std(0) + 1e-6
    return ((x - mean) / std, y), ((other - mean) / std, targets)


def times(pairs: tuple[Pair, Pair], factor: float) -> tuple[Pair, Pair]:
    (x, y), (other, targets) = pairs
    return (x * factor, y), (other * factor, targets)


def given(pairs: tuple[Pair, Pair], net: nn.Module, loss, optimizer, **more) -> Setup:  # type: ignore[no-untyped-def]
    return Setup(net, pairs[0], loss, optimizer, pairs[1], **more)


# ---------------------------------------------------------------- MNIST without activations


def linear_digits(faulty: bool) -> Setup:
    pairs = times(digits(), 1 / 16)
    if faulty:
        net = nn.Sequential(nn.Linear(64, 30), nn.Linear(30, 10))
        for p in net.parameters():
            nn.init.normal_(p)
        return given(pairs, net, one_hot, sgd(3.0), batch=10, epochs=3)
    net = glorot(nn.Sequential(nn.Linear(64, 30), nn.Sigmoid(), nn.Linear(30, 10), nn.Softmax(-1)))
    return given(pairs, net, categorical, sgd(3.0), batch=10, epochs=3)


# ---------------------------------------------------------------- adult census


def census() -> tuple[Pair, Pair]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3000, 14, generator=generator)
    y = (x @ torch.randn(14, generator=generator) + 0.5 * torch.randn(3000, generator=generator) > 0).long()
    scale = torch.tensor([13, 2, 1e5, 4, 2.5, 2, 4, 2, 0.8, 0.5, 7e3, 400, 12, 8.0])
    shift = torch.tensor([38, 4, 2e5, 10, 10, 3, 7, 2, 4, 0.7, 1e3, 87, 40, 37.0])
    return halves(x * scale + shift, y)


def census_net() -> nn.Module:
    return glorot(nn.Sequential(nn.Linear(14, 21), nn.ReLU(), nn.Linear(21, 2), nn.Softmax(-1)))


# ---------------------------------------------------------------- letters


def letters(faulty: bool) -> Setup:
    rows = torch.cartesian_prod(*(torch.arange(65, 71) for _ in range(3)))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))[:21]
    x = rows[order].float()
    y = (x[:, 0] > x[:, 1]).long()
    net = nn.Sequential(
        nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 1), nn.Sigmoid(),
    )  # fmt: skip
    uniform(net, -0.05, 0.05) if faulty else glorot(net)
    return Setup(net, ((x if faulty else (x - x.mean(0)) / x.std(0)), y), binary, adam(), batch=1, epochs=60)


# ---------------------------------------------------------------- circles and blobs


def circles() -> Pair:
    x, y = make_circles(700, noise=0.1, factor=0.5, random_state=1)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def nine_layers(faulty: bool) -> Setup:
    hidden = [nn.Linear(2, 5), *(nn.Linear(5, 5) for _ in range(7))]
    after = (lambda: [nn.Sigmoid()]) if faulty else (lambda: [nn.BatchNorm1d(5), nn.ReLU()])
    net = nn.Sequential(*(m for layer in hidden for m in (layer, *after())), nn.Linear(5, 1), nn.Sigmoid())
    return Setup(glorot(net), circles(), binary, adam(), batch=128, epochs=150)


def blobs(seed: int = 2, std: float = 2.0, count: int = 700) -> Pair:
    x, y = make_blobs(count, centers=3, n_features=2, cluster_std=std, random_state=seed)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def blobs_one_by_one(lr: float) -> Setup:
    net = glorot(nn.Sequential(nn.Linear(2, 50), nn.ReLU(), nn.Linear(50, 3), nn.Softmax(-1)))
    return Setup(net, blobs(), categorical, sgd(lr, 0.9), batch=1, epochs=2)


def relu_output(faulty: bool) -> Setup:
    layers = [nn.Linear(2, 50), *(nn.Linear(50, 50) for _ in range(3))]
    net = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())), nn.Linear(50, 3))
    net.append(nn.ReLU() if faulty else nn.Softmax(-1))
    return Setup(glorot(net), blobs(std=1.0), categorical, adam(1e-4), batch=256, epochs=300)


# ---------------------------------------------------------------- gates


def gate(xnor: bool) -> Pair:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([1, 0, 0, 1]) if xnor else torch.tensor([0, 1, 1, 0])
    return x, y


def squared(output: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(output.squeeze(1), y.float())


def xnor(faulty: bool) -> Setup:
    if faulty:
        net = uniform(nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Sigmoid()), 0.0, 1.0)
        return Setup(net, gate(True), squared, sgd(0.01), batch=1, epochs=500)
    net = nn.Sequential(nn.Linear(2, 16), nn.Sigmoid(), nn.Linear(16, 1))

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output.squeeze(1), y.float())

    return Setup(net, gate(True), loss, adam(0.01), batch=1, epochs=500, score=of_logit)


def one_unit_softmax(faulty: bool) -> Setup:
    last = nn.Softmax(-1) if faulty else nn.Sigmoid()
    net = glorot(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), last))
    x, y = gate(False)
    optimizer = sgd(1e-3, 0.9, True) if faulty else sgd(0.1, 0.9, True)
    data = x[[0, 1, 2, 3, 1, 2]], y[[0, 1, 2, 3, 1, 2]]
    return Setup(net, data, squared, optimizer, batch=6, epochs=2000)


# ---------------------------------------------------------------- tables


def table(load, standardized: bool) -> tuple[Pair, Pair]:  # type: ignore[no-untyped-def]
    data = load()
    pairs = halves(torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target))
    return scaled(pairs) if standardized else pairs


def wine_net() -> nn.Module:
    return glorot(nn.Sequential(nn.Linear(13, 20), nn.ReLU(), nn.Linear(20, 3), nn.Softmax(-1)))


def cancer_net() -> nn.Module:
    return glorot(nn.Sequential(nn.Linear(30, 16), nn.Sigmoid(), nn.Linear(16, 1), nn.Sigmoid()))


def logits_as_probabilities(faulty: bool) -> Setup:
    pairs = times(digits(), 1 / 16)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    loss = F.nll_loss if faulty else F.cross_entropy
    return given(pairs, net, loss, sgd(0.05, 0.9), epochs=5)


def matrix(lr: float) -> Setup:
    """Y = sigmoid(W x) for a random matrix W."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(1000, 50, generator=generator)
    y = (x @ torch.randn(50, 50, generator=generator)).sigmoid()
    net = nn.Sequential(nn.Linear(50, 50, bias=False), nn.Sigmoid())
    nn.init.normal_(net[0].weight)
    return Setup(net, (x, y), F.mse_loss, sgd(lr), batch=1000, epochs=400)


PROGRAMS = (
    Program(
        "linear_digits", "https://stackoverflow.com/q/48385830",
        "no activations, squared error, a learning rate of 3 and weights of N(0, 1): NaN",
        "sigmoid hidden, softmax and cross-entropy", LARGE, lambda: linear_digits(True), lambda: linear_digits(False),
        0.76, data="scikit-learn's digits for MNIST",
    ),
    Program(
        "census", "https://stackoverflow.com/q/47724077", "columns of the census up to 200,000 are not scaled",
        "standardized columns, Adam at 0.01", INPUTS,
        lambda: given(census(), census_net(), categorical, adam(), batch=100, epochs=20),
        lambda: given(scaled(census()), census_net(), categorical, adam(0.01), batch=100, epochs=20), 0.85,
        data="14 columns with the scales of the census, a linear rule with noise",
    ),
    Program(
        "letters", "https://stackoverflow.com/q/39525358", "character codes as inputs, weights within 0.05",
        "standardized inputs", (*INPUTS, *SLOW), lambda: letters(True), lambda: letters(False), 0.8,
        data="21 rows of three letters with a rule",
    ),
    Program(
        "nine_sigmoid_layers", f"{AUTOTRAINER}/tree/main/demo_case/Gradient_Vanish_Case",
        "nine sigmoid layers of 5 units", "ReLU and batch normalization", VANISHING, lambda: nine_layers(True),
        lambda: nine_layers(False), 0.75,
    ),
    Program(
        "blobs_one_by_one", f"{AUTOTRAINER}/tree/main/demo_case/Oscillating_Loss_Case",
        "one sample a step at a learning rate of 0.01 with momentum", "a tenth of the learning rate", LARGE,
        lambda: blobs_one_by_one(0.1), lambda: blobs_one_by_one(0.001), 0.7,
    ),
    Program(
        "xnor", "https://discuss.pytorch.org/t/simple-linear-sigmoid-network-not-learning/98714",
        "a narrow sigmoid net with weights of one sign, squared error, SGD at 0.01",
        "no last sigmoid, a loss of logits, wider, Adam", SLOW, lambda: xnor(True), lambda: xnor(False), 0.9,
    ),
    Program(
        "wine_not_scaled", "https://stats.stackexchange.com/q/7757",
        "features of very different scales are not normalized", "standardized features", INPUTS,
        lambda: given(table(load_wine, False), wine_net(), categorical, sgd(0.01), batch=16, epochs=40),
        lambda: given(table(load_wine, True), wine_net(), categorical, sgd(0.05), batch=16, epochs=40), 0.8,
        data="scikit-learn's wine",
    ),
    Program(
        "cancer_not_scaled", "https://stats.stackexchange.com/q/7757",
        "features up to 4,000 saturate a sigmoid layer", "standardized features", (*INPUTS, "saturated", *SLOW),
        lambda: given(table(load_breast_cancer, False), cancer_net(), binary, sgd(0.01, 0.9), batch=16, epochs=20),
        lambda: given(table(load_breast_cancer, True), cancer_net(), binary, sgd(0.01, 0.9), batch=16, epochs=20),
        0.93, data="scikit-learn's breast cancer",
    ),
    Program(
        "sigmoid_matrix", "https://discuss.pytorch.org/t/gradient-seems-to-small-when-training-parameters/153791",
        "a mean over all outputs makes gradients so small that SGD at an ordinary rate stands still",
        "a learning rate of 100 and above", SLOW, lambda: matrix(0.1), lambda: matrix(300.0), 0.6,
    ),
    Program(
        "softmax_over_one_unit", "https://stackoverflow.com/q/34311586", "softmax over one unit: always 1",
        "a sigmoid and a rate of 0.1 with momentum", LOSS, lambda: one_unit_softmax(True),
        lambda: one_unit_softmax(False), 0.8, inside=False,
    ),
    Program(
        "relu_output", f"{AUTOTRAINER}/tree/main/demo_case/Improper_Activation_case",
        "ReLU at the output, under a logarithm", "softmax", LOSS, lambda: relu_output(True),
        lambda: relu_output(False), 0.8, inside=False,
    ),
    Program(
        "logits_in_nll_loss", "https://discuss.pytorch.org/t/nll-loss-is-negative/29065",
        "logits instead of log-probabilities in `nll_loss`: the loss falls below 0", "log_softmax before it", LOSS,
        lambda: logits_as_probabilities(True), lambda: logits_as_probabilities(False), 0.8, inside=False,
        data="scikit-learn's digits",
    ),
)  # fmt: skip
