"""An autoencoder of digits under Adam."""

from __future__ import annotations

from recipes.data import flat_digits
from recipes.nets import mlp
from torch import nn
from torch.optim import Adam

from mutants.datasets import split
from mutants.recipes import Recipe
from mutants.setups import Data, Module, squared_error


def make() -> Module:
    net = mlp(64, 64, 16, 64, 64, act=nn.GELU)
    return Module(net, squared_error, Adam, lr=3e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)


def data() -> Data:
    x, _ = flat_digits()
    return split(x, x, tested=500)


RECIPE = Recipe("autoencoder", make, data, steps=400)
