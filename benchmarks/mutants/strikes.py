"""Faults that strike during a run."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from mutants.setups import Setup

Edit = Callable[[Any], object]
#: Names that torch's optimizers give to their state.
FIRST, SECOND = ("exp_avg", "momentum_buffer"), ("exp_avg_sq", "square_avg", "sum")


class Strike(pl.Callback):
    """Calls `before` with trainer and batch, and `backward` with the gradients, at the given batches of the run."""

    def __init__(self, at: Container[int], before: Edit | None = None, backward: Edit | None = None) -> None:
        self.at, self.before, self.backward, self.batch = at, before, backward, -1

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batch += 1
        if self.before is not None and self.batch in self.at:
            self.before((trainer, batch))

    @torch.no_grad()
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if self.backward is not None and self.batch in self.at:
            self.backward([p.grad for p in pl_module.parameters() if p.grad is not None])


def moment(setup: Setup, length: int = 1) -> range:
    """Steps in a row from a random one on, between a fifth and four fifths of the run; sets the onset."""
    setup.onset = setup.random.randrange(setup.steps // 5, setup.steps * 4 // 5)
    return range(setup.onset, min(setup.onset + max(1, length), setup.steps))


def rest(setup: Setup) -> range:
    """Steps from a random one on to the end."""
    return moment(setup, setup.steps)


def on_batch(setup: Setup, at: Container[int], edit: Callable[[Tensor, Tensor], object]) -> None:
    """Changes inputs and targets in place."""
    setup.callbacks.append(Strike(at, before=lambda now: edit(*now[1])))


def on_gradients(setup: Setup, at: Container[int], edit: Callable[[list[Tensor]], object]) -> None:
    """Changes gradients in place, before any tool sees them."""
    setup.callbacks.append(Strike(at, backward=edit))


def on_net(setup: Setup, at: Container[int], edit: Callable[[nn.Module], object]) -> None:
    """Changes weights and buffers before a step."""
    setup.callbacks.append(Strike(at, before=lambda now: edit(now[0].lightning_module.net)))


def on_optimizer(setup: Setup, at: Container[int], edit: Callable[[torch.optim.Optimizer], object]) -> None:
    """Changes options and state before a step."""
    setup.callbacks.append(Strike(at, before=lambda now: edit(now[0].optimizers[0])))


def generator(setup: Setup) -> torch.Generator:
    """Random numbers of the operator's own."""
    return torch.Generator().manual_seed(setup.random.randrange(2**31))


def scale_rate(setup: Setup, factor: Callable[[int], float]) -> None:
    """Multiplies the learning rate by a factor of the step."""
    before = setup.module.schedule or (lambda step: 1.0)
    setup.module.schedule = lambda step: before(step) * factor(step)


def moments(optimizer: torch.optim.Optimizer, names: tuple[str, ...]) -> list[Tensor]:
    """The state of every parameter under these names."""
    return [state[name] for state in optimizer.state.values() for name in names if state.get(name) is not None]
