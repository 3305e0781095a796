"""Cases and their registry: a failing training program and its twin with the documented cure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from recipes.base import Program
from torch import Tensor, nn

#: Problem, as the literature calls it -> the kinds of finding that report it.
KINDS: dict[str, tuple[str, ...]] = {
    "vanishing gradient": ("vanishing", "collapsed"),
    "exploding gradient": ("exploding", "overshooting", "nonfinite", "exploding_through_time"),
    "vanishing through time": ("vanishing_through_time",),
    "exploding through time": ("exploding_through_time",),
    "dead ReLU": ("dead_units", "collapsed"),
    "saturation": ("saturated", "collapsed"),
    "bad initialization": ("poor_initialization",),
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
    """One variant: the program, its number of steps, and its final quality on held-out data, in [0, 1]."""

    program: Program
    steps: int
    quality: Callable[[nn.Module], float]


@dataclass(frozen=True)
class Case:
    """A failing program and its twin.

    Args:
        name: Unique name.
        build: Creates the failing variant (`broken=True`) or the twin.
        wrong: Keys of `KINDS`; a finding of any of their kinds is a correct diagnosis.
        enough: Target: quality from which on the run counts as successful.
        source: Publication or report that describes the problem.
        layer: The layer that causes the problem; empty if the whole model does.
        curable: False for a bug in the program, which no remedy can repair during the run.
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
        """Every kind that counts as correct."""
        return {kind for word in self.wrong for kind in KINDS[word]}


CASES: dict[str, Case] = {}


def case(wrong: Sequence[str], enough: float, source: str, **options: object) -> Callable[..., Callable[[bool], Built]]:
    """Registers a function `build(broken)` under its own name."""

    def register(build: Callable[[bool], Built]) -> Callable[[bool], Built]:
        CASES[build.__name__] = Case(build.__name__, build, tuple(wrong), enough, source, **options)  # type: ignore[arg-type]
        return build

    return register


def accuracy(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    """Share of correct classes; a single output is a logit for class 1."""

    def measure(net: nn.Module) -> float:
        out = outputs(net, x)
        chosen = out.argmax(-1) if out.shape[-1] > 1 else (out.squeeze(-1) > 0).to(y.dtype)
        return float((chosen == y).double().mean()) if bool(out.isfinite().all()) else 0.0

    return measure


def explained(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    """Share of the targets' variance that is explained, at least 0."""

    def measure(net: nn.Module) -> float:
        left = float((outputs(net, x).reshape(y.shape) - y).square().mean() / y.var())
        return max(0.0, 1.0 - left) if math.isfinite(left) else 0.0

    return measure


@torch.no_grad()
def outputs(net: nn.Module, x: Tensor) -> Tensor:
    """Outputs in evaluation mode."""
    was = net.training
    net.eval()
    try:
        return net(x)
    finally:
        net.train(was)
