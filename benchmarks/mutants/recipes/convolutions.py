"""Convolutions with batch normalization on images of digits under SGD with Nesterov's momentum."""

from __future__ import annotations

from recipes.data import digits
from recipes.nets import cnn
from torch.optim import SGD

from mutants.datasets import split
from mutants.recipes import Recipe
from mutants.setups import Data, Module, cross_entropy


def make() -> Module:
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
    return Module(cnn(norm=True), cross_entropy, SGD, lr=0.02, **options)


def data() -> Data:
    return split(*digits(), tested=500)


RECIPE = Recipe("convolutions", make, data, steps=400)
