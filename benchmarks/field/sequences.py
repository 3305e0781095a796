"""Published programs with recurrence and attention."""

from __future__ import annotations

import math
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from classes import LARGE, SLOW, halves
from published import Pair, Program, Setup, adam, sgd
from torch import Tensor, nn

THROUGH_TIME = ("vanishing_through_time", "exploding_through_time", *SLOW)


def words(length: int = 20, vocabulary: int = 200) -> tuple[Pair, Pair]:
    """Windows of the words of Python's documentation; rare ones are 0."""
    text = "\n".join(topics[name] for name in sorted(topics)).lower().split()
    count: dict[str, int] = {}
    for word in text:
        count[word] = count.get(word, 0) + 1
    known = {w: i + 1 for i, w in enumerate(sorted(count, key=lambda w: (-count[w], w))[: vocabulary - 1])}
    ids = torch.tensor([known.get(word, 0) for word in text])
    rows = ids[: len(ids) // length * length].view(-1, length)[:1500]
    return halves(rows[:, :-1], rows[:, 1:])


class Model(nn.Module):
    """A transformer of words; post-LN unless `pre`."""

    def __init__(self, layers: int = 2, pre: bool = False, width: int = 48) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(200, width), nn.Embedding(20, width)
        layer = nn.TransformerEncoderLayer(width, 2, width, 0.0, batch_first=True, norm_first=pre)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 200)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.encoder(self.words(x) * 7 + self.places.weight[: x.shape[1]], mask, is_causal=True))


def next_word(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), y.flatten())


def saved(output: Tensor, y: Tensor) -> float:
    """Share of the bits that are saved, of those that the frequencies of the words leave."""
    p = y.flatten().bincount(minlength=200) / y.numel()
    frequent = -float((p[p > 0] * p[p > 0].log()).sum())
    loss = float(next_word(output, y))
    return max(0.0, 1 - loss / frequent) if math.isfinite(loss) else 0.0


def language(lr: float) -> Setup:
    pairs = words()
    return Setup(
        Model(), pairs[0], next_word, sgd(lr), pairs[1], batch=20, epochs=6, options={"gradient_clip_val": 0.25},
        score=saved,
    )  # fmt: skip


def without_warmup(lr: float, pre: bool) -> Setup:
    pairs = words()
    return Setup(Model(6, pre), pairs[0], next_word, adam(lr), pairs[1], batch=20, epochs=4, score=saved)


class Last(nn.Module):
    """A recurrent layer and a linear one on its last state."""

    def __init__(self, rnn: nn.Module, outputs: int) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(rnn.hidden_size, outputs)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def first_symbol(length: int) -> Pair:
    x = torch.randint(0, 2, (1200, length), generator=torch.Generator().manual_seed(0))
    return F.one_hot(x, 2).float(), x[:, 0]


def recall(net: nn.Module, lr: float = 1e-2) -> Setup:
    pairs = halves(*first_symbol(40))
    return Setup(net, pairs[0], F.cross_entropy, adam(lr), pairs[1], batch=32, epochs=12)


def relu_rnn(scale: float) -> nn.Module:
    """A ReLU RNN with the identity times a number as recurrent weight."""
    rnn = nn.RNN(2, 32, nonlinearity="relu", batch_first=True)
    nn.init.eye_(rnn.weight_hh_l0)
    rnn.weight_hh_l0.data.mul_(scale)
    nn.init.normal_(rnn.weight_ih_l0, std=0.1)
    for bias in (rnn.bias_hh_l0, rnn.bias_ih_l0):
        nn.init.zeros_(bias)
    return Last(rnn, 2)


def waves(scaled: bool) -> Setup:
    """The next value of a wave around 500."""
    t = torch.arange(1230.0)
    wave = 500 + 100 * (t / 8).sin() + 5 * torch.randn(1230, generator=torch.Generator().manual_seed(1))
    wave = (wave - wave.mean()) / wave.std() if scaled else wave
    x = wave.unfold(0, 31, 1)
    pairs = halves(x[:, :-1, None], x[:, -1:])
    net = Last(nn.LSTM(1, 24, batch_first=True), 1)
    return Setup(net, pairs[0], F.mse_loss, adam(1e-3), pairs[1], batch=32, epochs=10)


PROGRAMS = (
    Program(
        "transformer_at_twenty", "https://github.com/pytorch/examples/issues/642",
        "the default rate of 20 is for LSTMs: a transformer does not learn at it", "a rate of 5", LARGE,
        lambda: language(20.0), lambda: language(5.0), 0.03, data="words of Python's documentation",
    ),
    Program(
        "post_norm_without_warmup", "https://github.com/LiyuanLucasLiu/Transformer-Clinic/issues/16",
        "post-LN without warmup does not converge", "pre-LN, or warmup", (*LARGE, "poor_initialization", "collapsed"),
        lambda: without_warmup(6e-3, False), lambda: without_warmup(2e-3, True), 0.1,
        data="words of Python's documentation",
    ),
    Program(
        "recurrence_of_a_tenth", "https://arxiv.org/abs/1504.00941",
        "recurrent weights far below the identity: the first symbol is forgotten", "the identity",
        (*THROUGH_TIME, "poor_initialization"), lambda: recall(relu_rnn(0.1), 1e-3),
        lambda: recall(relu_rnn(1.0), 3e-3), 0.8,
    ),
    Program(
        "waves_not_scaled", "https://stackoverflow.com/q/48760472",
        "an LSTM on values around 500 predicts a constant", "scaled values", ("unnormalized_target", *SLOW),
        lambda: waves(False), lambda: waves(True), 0.7, inside=False,
    ),
)  # fmt: skip
