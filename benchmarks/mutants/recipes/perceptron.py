"""A perceptron on digits under SGD with momentum."""

from __future__ import annotations

from recipes.data import flat_digits
from recipes.nets import mlp
from torch.optim import SGD

from mutants.datasets import split
from mutants.recipes import Recipe
from mutants.setups import Data, Module, cross_entropy


def make() -> Module:
    return Module(mlp(64, 64, 32, 10), cross_entropy, SGD, lr=0.05, momentum=0.9, weight_decay=0.0)


def data() -> Data:
    return split(*flat_digits(), tested=500)


RECIPE = Recipe("perceptron", make, data, steps=400)
