"""Data sets that need no download: scikit-learn's bundled sets and generated ones, the same in every run."""

from __future__ import annotations

from functools import cache

import torch
from sklearn import datasets
from torch import Tensor
from torch.nn.functional import one_hot

Pair = tuple[Tensor, Tensor]


def generator(seed: int) -> torch.Generator:
    """A separate generator, so that the data do not depend on the run's seed."""
    return torch.Generator().manual_seed(seed)


@cache
def digits() -> Pair:
    """1,797 images of digits, `[N, 1, 8, 8]` in 0..1, and their classes."""
    x, y = datasets.load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(y)


@cache
def flat_digits() -> Pair:
    """The same as rows, `[N, 64]`."""
    x, y = digits()
    return x.flatten(1), y


@cache
def wine() -> Pair:
    """178 wines, 13 standardized measurements, 3 classes."""
    x, y = datasets.load_wine(return_X_y=True)
    return standard(torch.tensor(x, dtype=torch.float32)), torch.tensor(y)


@cache
def diabetes() -> Pair:
    """442 patients, 10 measurements, one standardized target `[N, 1]`."""
    x, y = datasets.load_diabetes(return_X_y=True)
    return standard(torch.tensor(x, dtype=torch.float32)), standard(torch.tensor(y, dtype=torch.float32)[:, None])


@cache
def moons() -> Pair:
    """Two interleaved half circles with noise."""
    x, y = datasets.make_moons(1000, noise=0.15, random_state=0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


@cache
def circles() -> Pair:
    """A circle inside another."""
    x, y = datasets.make_circles(1000, noise=0.05, factor=0.5, random_state=0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


@cache
def linear(noise: float = 0.0) -> Pair:
    """A linear map of 8 inputs."""
    x = torch.randn(512, 8, generator=generator(3))
    y = x @ torch.linspace(-2, 2, 8)[:, None]
    return x, y + noise * torch.randn(512, 1, generator=generator(4))


@cache
def first_symbol(length: int, symbols: int = 4) -> Pair:
    """Sequences `[N, T, symbols + 1]` whose class is the first symbol, followed by noise."""
    y = torch.randint(symbols, (1024,), generator=generator(5))
    x = 0.1 * torch.randn(1024, length, symbols + 1, generator=generator(6))
    x[:, 0, :symbols] += one_hot(y, symbols)
    return x, y


@cache
def adding(length: int) -> Pair:
    """The adding problem (Hochreiter and Schmidhuber 1997): the sum of two marked numbers of a sequence."""
    x = torch.rand(1024, length, generator=generator(7))
    marks = torch.zeros(1024, length)
    first = torch.randint(length // 2, (1024,), generator=generator(8))
    second = torch.randint(length // 2, length, (1024,), generator=generator(9))
    rows = torch.arange(1024)
    marks[rows, first] = marks[rows, second] = 1
    return torch.stack([x, marks], -1), (x * marks).sum(1, keepdim=True)


@cache
def reversal(length: int = 8, symbols: int = 12) -> Pair:
    """Random token sequences and their reversal."""
    x = torch.randint(symbols, (4096, length), generator=generator(10))
    return x, x.flip(1)


@cache
def text(length: int = 24, symbols: int = 20) -> Pair:
    """Text of a Markov chain: tokens and their successors."""
    chances = torch.distributions.Dirichlet(torch.full((symbols,), 0.1))
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(11)
    table, tokens = chances.sample((symbols,)), [torch.randint(symbols, (512,))]
    for _ in range(length):
        tokens.append(torch.multinomial(table[tokens[-1]], 1)[:, 0])
    torch.random.set_rng_state(torch_state)
    line = torch.stack(tokens, 1)
    return line[:, :-1], line[:, 1:]


@cache
def topics() -> Pair:
    """Bags of ten words out of 3,000, most of them rare, and the topic of each bag."""
    y = torch.randint(3, (1024,), generator=generator(12))
    return y[:, None] * 1000 + (torch.rand(1024, 10, generator=generator(13)) ** 3 * 1000).long(), y


@cache
def ring() -> Tensor:
    """Points of eight Gaussians on a circle, `[N, 2]`."""
    angle = torch.randint(8, (2048,), generator=generator(14)) * torch.pi / 4
    centre = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    return centre + 0.1 * torch.randn(2048, 2, generator=generator(15))


def standard(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 in every column."""
    return (x - x.mean(0)) / x.std(0)
