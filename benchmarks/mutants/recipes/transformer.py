"""A transformer encoder that reverses a sequence, under Adam."""

from __future__ import annotations

from recipes.data import reversal
from torch.optim import Adam

from mutants.datasets import split
from mutants.recipes import Recipe
from mutants.setups import Data, Module, cross_entropy
from mutants.transformers import Transformer


def make() -> Module:
    net = Transformer(symbols=12, length=8, width=32, layers=2)
    return Module(net, cross_entropy, Adam, lr=3e-3, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0)


def data() -> Data:
    return split(*reversal(), tested=300)


RECIPE = Recipe("transformer", make, data, steps=400)
