"""A factorization of ratings into vectors of users and items under Adagrad."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.optim import Adagrad

from mutants.datasets import split
from mutants.recipes import Recipe
from mutants.setups import Data, Module, squared_error

USERS, ITEMS, RANK = 80, 60, 4


class Factors(nn.Module):
    """A rating is the product of two vectors and the sum of two numbers."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, rank), nn.Embedding(ITEMS, rank)
        self.mood, self.fame = nn.Embedding(USERS, 1), nn.Embedding(ITEMS, 1)
        for layer in (self.user, self.item, self.mood, self.fame):
            nn.init.normal_(layer.weight, std=0.3)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs.unbind(-1)
        product = (self.user(user) * self.item(item)).sum(-1, keepdim=True)
        return product + self.mood(user) + self.fame(item)


def make() -> Module:
    return Module(Factors(8), squared_error, Adagrad, lr=0.3, eps=1e-10, weight_decay=0.0)


@cache
def data() -> Data:
    random = torch.Generator().manual_seed(2)
    users, items = torch.randn(USERS, RANK, generator=random), torch.randn(ITEMS, RANK, generator=random)
    pairs = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS))
    ratings = (users @ items.T / RANK**0.5).reshape(-1, 1)
    return split(pairs, ratings + 0.1 * torch.randn(len(pairs), 1, generator=random), tested=1000)


RECIPE = Recipe("factorization", make, data, steps=400, size=128)
