"""What a case is, and the registry: a broken training program beside a twin with the documented cure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from recipes.base import Program
from torch import Tensor, nn

#: What is wrong, in the words of the literature -> the kinds of finding that say it here.
SAYS: dict[str, tuple[str, ...]] = {
    "vanishing gradient": ("vanishing", "collapsed"),
    "exploding gradient": ("exploding", "overshooting", "nonfinite", "exploding_through_time"),
    "vanishing through time": ("vanishing_through_time",),
    "exploding through time": ("exploding_through_time",),
    "dead ReLU": ("dead_units", "collapsed"),
    "saturation": ("saturated", "collapsed"),
    "bad initialisation": ("poor_initialization",),
    "raw input": ("unnormalized_input",),
    "learning rate too large": (
        "diverging",
        "overshooting",
        "oscillating",
        "exploding",
        "nonfinite",
        "lr_too_large",
        "lr_jump",
    ),
    "learning rate too small": ("no_progress", "lr_too_small"),
    "momentum too large": ("diverging", "oscillating", "momentum_too_large"),
    "NaN": ("nonfinite",),
    "bad batch": ("nonfinite", "loss_spike", "exploding"),
    "corrupt weights": ("nonfinite", "loss_spike", "exploding", "loss_increase"),
    "zero gradient": ("stalled",),
    "collapse": ("collapsed",),
}


@dataclass(frozen=True)
class Built:
    """One variant: the program, how many steps it has, and its final quality on held-out data, `[0, 1]`."""

    program: Program
    steps: int
    quality: Callable[[nn.Module], float]


@dataclass(frozen=True)
class Case:
    """A broken program and its twin.

    Args:
        name: Unique name.
        build: From `broken` to the variant.
        wrong: Keys of `SAYS`; a finding of any of their kinds is a right diagnosis.
        enough: Quality from which on the run has succeeded.
        source: Who described it.
        layer: A layer that may be named; "" when the whole model is to blame.
        curable: False for a mistake in the program that no cure inside the run can reach.
        onset: First step at which the fault can be seen.
    """

    name: str
    build: Callable[[bool], Built]
    wrong: tuple[str, ...]
    enough: float
    source: str
    layer: str = ""
    curable: bool = True
    onset: int = 0

    @property
    def kinds(self) -> set[str]:
        """Every kind that counts as right."""
        return {kind for word in self.wrong for kind in SAYS[word]}


CASES: dict[str, Case] = {}


def case(wrong: Sequence[str], enough: float, source: str, **options: object) -> Callable[..., Callable[[bool], Built]]:
    """Registers a function `build(broken)` under its own name."""

    def register(build: Callable[[bool], Built]) -> Callable[[bool], Built]:
        CASES[build.__name__] = Case(build.__name__, build, tuple(wrong), enough, source, **options)  # type: ignore[arg-type]
        return build

    return register


def accuracy(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    """Share of right classes; a single output is a logit for class 1."""

    def measure(net: nn.Module) -> float:
        out = outputs(net, x)
        chosen = out.argmax(-1) if out.shape[-1] > 1 else (out.squeeze(-1) > 0).to(y.dtype)
        return float((chosen == y).double().mean()) if bool(out.isfinite().all()) else 0.0

    return measure


def explained(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    """Share of the targets' variance that is explained, not below 0."""

    def measure(net: nn.Module) -> float:
        left = float((outputs(net, x).reshape(y.shape) - y).square().mean() / y.var())
        return max(0.0, 1.0 - left) if math.isfinite(left) else 0.0

    return measure


@torch.no_grad()
def outputs(net: nn.Module, x: Tensor) -> Tensor:
    """What the net answers in evaluation mode."""
    was = net.training
    net.eval()
    try:
        return net(x)
    finally:
        net.train(was)
