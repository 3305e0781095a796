"""A regression of the course of diabetes under RMSprop."""

from __future__ import annotations

from recipes.data import diabetes
from recipes.nets import mlp
from torch import nn
from torch.optim import RMSprop

from mutants.datasets import split
from mutants.recipes import Recipe
from mutants.setups import Data, Module, squared_error


def make() -> Module:
    return Module(
        mlp(10, 24, 1, act=nn.ELU), squared_error, RMSprop, lr=5e-4, momentum=0.5, eps=1e-8, weight_decay=0.01
    )


def data() -> Data:
    return split(*diabetes(), tested=142)


RECIPE = Recipe("regression", make, data, steps=400)
