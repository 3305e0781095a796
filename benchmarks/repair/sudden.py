"""Runs that are healthy until a sudden fault, and recurrent networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from cases import Built, accuracy, case
from recipes.base import Learner, Program, batches
from recipes.data import generator
from recipes.nets import Recurrent, adam, classify, cnn, he, mlp, sgd
from still import on_digits
from torch import nn


class Happening(pl.Callback):
    """Calls `act(module, batch)` at the batches that `when` selects by number since the start of training."""

    def __init__(self, when: Callable[[int], bool], act: Callable[[nn.Module, Any], None]) -> None:
        self.when, self.act, self.batches = when, act, 0

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.when(self.batches):
            self.act(pl_module, batch)
        self.batches += 1


def with_happening(
    built: Built, broken: bool, when: Callable[[int], bool], act: Callable[[nn.Module, Any], None]
) -> Built:
    """The same program, with the fault if `broken`."""
    built.program.callbacks = [Happening(when, act)] if broken else []
    return built


def remember(net: nn.Module, lr: float, steps: int, length: int) -> Built:
    """Task: recall which of four symbols came first, after `length` steps of noise."""

    def draw(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        g = generator(seed)
        y = torch.randint(0, 4, (count,), generator=g)
        x = 0.1 * torch.randn(count, length, 8, generator=g)
        x[torch.arange(count), 0, y] += 1.0
        return x, y

    test = draw(512, 22)
    program = Program(Learner(net, classify, adam(lr)), batches(*draw(1024, 21), size=64))
    return Built(program, steps, lambda module: accuracy(*test)(module.net))


@case(
    ["exploding through time", "exploding gradient", "bad initialization"],
    0.85,
    "Pascanu et al. 2013",
    layer="net.cell",
)
def chaotic_rnn(broken: bool) -> Built:
    net = Recurrent(nn.RNN, 8, 48, 4)
    nn.init.orthogonal_(net.cell.weight_hh_l0)
    nn.init.zeros_(net.cell.bias_hh_l0), nn.init.zeros_(net.cell.bias_ih_l0)
    nn.init.normal_(net.cell.weight_hh_l0, std=2.5 / math.sqrt(48)) if broken else None
    return remember(net, 6e-4, 600, 60)


@case(["vanishing through time", "bad initialization"], 0.9, "Gers et al. 2000", layer="net.cell")
def shut_forget_gate(broken: bool) -> Built:
    net = Recurrent(nn.LSTM, 8, 32, 4)
    nn.init.constant_(net.cell.bias_hh_l0[32:64].detach(), -10.0 if broken else 4.0)
    return remember(net, 3e-3, 600, 60)


@case(["corrupt weights"], 0.9, "He et al. 2023 (ISCA): bit flips", onset=120)
def flipped_bits(broken: bool) -> Built:
    net = Recurrent(nn.LSTM, 8, 32, 4)
    nn.init.constant_(net.cell.bias_hh_l0[32:64].detach(), 3.0)

    def flip(module: nn.Module, batch: Any) -> None:
        for row, column in enumerate((0, 5, 10, 15)):
            module.net.head.weight.data[row, column].view(torch.int32).bitwise_xor_(1 << 30)  # type: ignore[union-attr,operator]

    return with_happening(remember(net, 3e-3, 260, 20), broken, lambda i: i == 120, flip)


@case(["NaN", "bad batch"], 0.9, "bad record")
def one_record_of_nan(broken: bool) -> Built:
    def spoil(module: nn.Module, batch: Any) -> None:
        batch[0][3, 20] = math.nan

    return with_happening(on_digits(he(mlp(64, 64, 10)), adam(2e-3), 300), broken, lambda i: i % 39 == 27, spoil)


def images(net: nn.Module) -> nn.Module:
    """The network on rows of pixels reshaped to images."""
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), net)


@case(["bad batch", "exploding gradient", "learning rate too large", "dead ReLU"], 0.9, "bad record", onset=40)
def one_image_too_bright(broken: bool) -> Built:
    def spoil(module: nn.Module, batch: Any) -> None:
        batch[0][3] *= 1e5
        batch[1][3] = (batch[1][3] + 1) % 10

    built = on_digits(images(cnn(norm=False)), sgd(0.05, 0.9), 260)
    return with_happening(built, broken, lambda i: i % 61 == 40, spoil)


@case(
    ["bad batch", "exploding gradient", "learning rate too large"],
    0.9,
    "Chowdhery et al. 2022, arXiv 2204.02311",
    onset=150,
)
def twenty_bad_batches(broken: bool) -> Built:
    def spoil(module: nn.Module, batch: Any) -> None:
        batch[0].mul_(200.0)
        batch[1].copy_(batch[1].roll(1))

    built = on_digits(images(cnn(norm=False)), sgd(0.05, 0.9), 220)
    return with_happening(built, broken, lambda i: 150 <= i < 170, spoil)


@case(["learning rate too large", "bad batch", "exploding gradient"], 0.9, "a slip in a script", onset=100)
def rate_times_a_thousand(broken: bool) -> Built:
    class Slip(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 100:
                for group in trainer.optimizers[0].param_groups:
                    group["lr"] *= 1000

    built = on_digits(he(mlp(64, 64, 64, 10)), sgd(0.05, 0.9), 300, size=64)
    built.program.callbacks = [Slip()] if broken else []
    return built
