"""A causal transformer that predicts the next byte of Python's documentation, under AdamW with warm-up."""

from __future__ import annotations

from torch.optim import AdamW

from mutants.datasets import book
from mutants.recipes import Recipe
from mutants.setups import Data, Module, cross_entropy
from mutants.transformers import Transformer


def make() -> Module:
    net = Transformer(symbols=128, length=32, width=48, layers=2, causal=True)
    module = Module(net, cross_entropy, AdamW, lr=4e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    module.schedule = lambda step: min(1.0, (step + 1) / 30)
    return module


def data() -> Data:
    return book(32)


RECIPE = Recipe("language_model", make, data, steps=300, size=16)
