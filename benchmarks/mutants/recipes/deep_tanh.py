"""Eight layers of tanh on tumors under Adam."""

from __future__ import annotations

from functools import cache

import torch
from recipes.data import standard
from recipes.nets import mlp
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.optim import Adam

from mutants.datasets import split
from mutants.recipes import Recipe
from mutants.setups import Data, Module, cross_entropy


def make() -> Module:
    net = mlp(30, *[32] * 8, 2, act=nn.Tanh)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return Module(net, cross_entropy, Adam, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)


@cache
def data() -> Data:
    x, y = load_breast_cancer(return_X_y=True)
    return split(standard(torch.tensor(x, dtype=torch.float32)), torch.tensor(y), tested=200)


RECIPE = Recipe("deep_tanh", make, data, steps=400)
