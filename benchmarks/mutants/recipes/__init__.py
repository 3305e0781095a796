"""Healthy training recipes: every file of this folder defines one as `RECIPE`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

import torch
from torch import nn

from mutants.layers import ACTIVATIONS, NORMS, hidden
from mutants.setups import Data, Module, Setup


@dataclass(frozen=True)
class Recipe:
    """A training program that succeeds with every seed.

    Args:
        name: Unique; the name of its file.
        make: Creates model, loss and optimizer from the global random state.
        data: Returns what to train and to measure with.
        steps: Of a run.
        size: Of a batch.
    """

    name: str
    make: Callable[[], Module]
    data: Callable[[], Data]
    steps: int
    size: int = 32

    def setup(self, random: Random) -> Setup:
        """A run of its own; set the global seed before."""
        return Setup(self.make(), Data(*(t.clone() for t in self.data())), self.size, self.steps, random)

    @property
    def traits(self) -> frozenset[str]:
        """What operators ask for, as `"norm"` or `"images"`."""
        return _traits(self)


@cache
def _traits(recipe: Recipe) -> frozenset[str]:
    with torch.random.fork_rng([]):
        module = recipe.make()
    data, layers = recipe.data(), list(module.net.modules())
    found = {
        "real inputs": data.x.is_floating_point(),
        "tokens": data.x.dim() == 2 and not data.x.is_floating_point() and not data.y.is_floating_point(),
        "real targets": data.y.is_floating_point(),
        "classes": not data.y.is_floating_point(),
        "activation": any(isinstance(layer, ACTIVATIONS) for layer in layers),
        "norm": any(isinstance(layer, NORMS) for layer in layers),
        "batch norm": any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers),
        "recurrent": any(isinstance(layer, nn.RNNBase) for layer in layers),
        "bias": any("bias" in name for name, _ in module.net.named_parameters()),
        "momentum": "momentum" in module.options or "betas" in module.options,
        "betas": "betas" in module.options,
        "eps": "eps" in module.options,
        "depth": bool(hidden(module.net)),
    }  # fmt: skip
    return frozenset(trait for trait, has in found.items() if has)


def discover() -> dict[str, Recipe]:
    """Every recipe of the folder, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").RECIPE for name in names}
