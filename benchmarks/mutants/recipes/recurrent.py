"""An LSTM that recalls the first of many symbols, under Adam."""

from __future__ import annotations

from recipes.data import first_symbol
from recipes.nets import Recurrent
from torch import nn
from torch.optim import Adam

from mutants.datasets import split
from mutants.recipes import Recipe
from mutants.setups import Data, Module, cross_entropy


def make() -> Module:
    net = Recurrent(nn.LSTM, 5, 32, 4)
    nn.init.constant_(net.cell.bias_hh_l0.detach()[32:64], 2.0)
    return Module(net, cross_entropy, Adam, lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)


def data() -> Data:
    return split(*first_symbol(12), tested=400)


RECIPE = Recipe("recurrent", make, data, steps=400)
