"""Sequences: recurrent networks with their natural gradient cliffs, transformers, embeddings."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.base import STEPS, Learner, Program, batches, recipe
from recipes.data import adding, first_symbol, reversal, text, topics
from recipes.nets import Recurrent, Transformer, adam, classify, predict, regress, sgd
from recipes.schedules import warmup


@recipe
def tanh_rnn() -> Program:
    net = Recurrent(nn.RNN, 5, 48, 4)
    nn.init.orthogonal_(net.cell.weight_hh_l0)
    return Program(Learner(net, classify, adam(1e-3)), batches(*first_symbol(40), size=64))


@recipe
def long_tanh_rnn() -> Program:
    """Sequences of 60 steps: single gradients are a hundred times larger than all earlier ones, without harm."""
    net = Recurrent(nn.RNN, 5, 48, 4)
    nn.init.orthogonal_(net.cell.weight_hh_l0)
    nn.init.zeros_(net.cell.bias_hh_l0)
    nn.init.zeros_(net.cell.bias_ih_l0)
    return Program(Learner(net, classify, adam(6e-4)), batches(*first_symbol(60), size=64))


@recipe
def tanh_rnn_sgd() -> Program:
    """Plain SGD without clipping reaches the cliffs of Pascanu et al. 2013 and recovers."""
    net = Recurrent(nn.RNN, 5, 32, 4)
    nn.init.orthogonal_(net.cell.weight_hh_l0, gain=1.1)
    return Program(Learner(net, classify, sgd(0.01)), batches(*first_symbol(30)))


@recipe
def identity_rnn() -> Program:
    """ReLU units and an identity recurrence (Le et al. 2015, arXiv 1504.00941) on the adding problem."""
    net = Recurrent(nn.RNN, 2, 48, 1, nonlinearity="relu")
    nn.init.eye_(net.cell.weight_hh_l0)
    nn.init.normal_(net.cell.weight_ih_l0, std=0.01)
    return Program(Learner(net, regress, adam(1e-3)), batches(*adding(30)))


@recipe
def lstm() -> Program:
    net = Recurrent(nn.LSTM, 5, 32, 4)
    net.cell.bias_hh_l0.data[32:64] = 3.0
    return Program(Learner(net, classify, adam(3e-3)), batches(*first_symbol(20), size=64))


@recipe
def lstm_adding_momentum() -> Program:
    net = Recurrent(nn.LSTM, 2, 32, 1)
    return Program(Learner(net, regress, sgd(0.1, 0.9)), batches(*adding(20)))


@recipe
def gru_adding() -> Program:
    return Program(Learner(Recurrent(nn.GRU, 2, 32, 1), regress, adam(3e-3)), batches(*adding(20)))


class Writer(nn.Module):
    """Embedding, LSTM, next token."""

    def __init__(self, symbols: int, width: int = 32) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(symbols, width), nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(tokens))[0])


@recipe
def language_model() -> Program:
    return Program(Learner(Writer(20), predict, partial(torch.optim.AdamW, lr=5e-3)), batches(*text()))


@recipe
def pre_norm_transformer() -> Program:
    return Program(Learner(Transformer(12, 8), predict, adam(2e-3)), batches(*reversal()))


@recipe
def post_norm_transformer_warmup() -> Program:
    schedule = warmup(partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=STEPS - 100), 100)
    net = Transformer(12, 8, norm_first=False)
    return Program(Learner(net, predict, adam(2e-3), schedule), batches(*reversal()))


class Bag(nn.Module):
    """A classifier on the mean of word vectors."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(3000, 16, sparse=sparse), nn.Linear(16, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.words(words))


@recipe
def rare_words() -> Program:
    return Program(Learner(Bag(sparse=False), classify, adam(0.01)), batches(*topics()))


@recipe
def sparse_embedding() -> Program:
    return Program(Learner(Bag(sparse=True), classify, sgd(0.5)), batches(*topics()))


@recipe
def sparse_adam() -> Program:
    net = nn.EmbeddingBag(3000, 3, sparse=True)
    return Program(Learner(net, classify, partial(torch.optim.SparseAdam, lr=0.01)), batches(*topics(), size=8))


@recipe
def contrastive() -> Program:
    """Contrastive learning with two noisy views of each sequence (InfoNCE)."""

    def loss(net: nn.Module, x: Tensor, _: Tensor) -> Tensor:
        a, b = (F.normalize(net(x + 0.05 * torch.randn_like(x)), dim=1) for _ in range(2))
        return F.cross_entropy(a @ b.T / 0.1, torch.arange(len(x)))

    return Program(Learner(Recurrent(nn.GRU, 5, 32, 16), loss, adam(2e-3)), batches(*first_symbol(12)))
