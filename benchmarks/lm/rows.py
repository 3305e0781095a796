"""The ways in which language models go wrong: wrong from the start, and spoiled in the middle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from gpt import GPT, STEPS, Recipe
from torch import Tensor

HEALTHY = Recipe()
#: Where faults in the middle begin.
MIDDLE = STEPS // 2


@dataclass
class Fault(pl.Callback):
    """Spoils steps of a run.

    Args:
        steps: Which ones.
        batch: Changes their batches in place.
        state: Changes weights and optimizer state before them.
        gradients: Changes their gradients in place.
    """

    steps: Sequence[int] = ()
    batch: Callable[[Tensor, int], Any] | None = None
    state: Callable[[GPT], Any] | None = None
    gradients: Callable[[list[Tensor]], Any] | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx in self.steps and self.batch is not None:
            self.batch(batch, batch_idx)
        if batch_idx in self.steps and self.state is not None:
            with torch.no_grad():
                self.state(pl_module)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_idx in self.steps and self.gradients is not None:
            self.gradients([p.grad for p in pl_module.parameters() if p.grad is not None])


@dataclass(frozen=True)
class Row:
    """A way to go wrong.

    Args:
        recipe: What the run is trained with.
        fault: What happens to it.
    """

    recipe: Recipe = HEALTHY
    fault: Fault | None = None


def middle(count: int) -> range:
    """Steps in the middle of a run."""
    return range(MIDDLE, MIDDLE + count)


def random_bytes(batch: Tensor, step: int) -> None:
    batch.copy_(torch.randint(0, 128, batch.shape, generator=torch.Generator().manual_seed(step)))


def shuffled(batch: Tensor, step: int) -> None:
    """The bytes of each sample in a random order: the labels say nothing about the inputs."""
    generator = torch.Generator().manual_seed(step)
    for row in batch:
        row.copy_(row[torch.randperm(len(row), generator=generator)])


def lose_moments(module: GPT) -> None:
    for state in module.optimizers().optimizer.state.values():  # type: ignore[union-attr]
        for name in ("exp_avg", "exp_avg_sq"):
            state[name].zero_()


def blow_moments(module: GPT) -> None:
    for state in module.optimizers().optimizer.state.values():  # type: ignore[union-attr]
        state["exp_avg_sq"].mul_(1e6)


def flip_bits(module: GPT) -> None:
    """One weight of each block becomes 2 ** 20 times as large."""
    for block in module.blocks:
        block.mlp[0].weight[3, 5] *= 2.0**20


def scale(factor: float) -> Callable[[list[Tensor]], Any]:
    return lambda gradients: [gradient.mul_(factor) for gradient in gradients]


ROWS: dict[str, Row] = {
    "healthy recipe": Row(),
    "learning rate x 10": Row(replace(HEALTHY, lr=3e-2)),
    "learning rate x 30": Row(replace(HEALTHY, lr=9e-2)),
    "learning rate x 30, no warmup": Row(replace(HEALTHY, lr=9e-2, warmup=0)),
    "learning rate x 100": Row(replace(HEALTHY, lr=0.3)),
    "learning rate / 100": Row(replace(HEALTHY, lr=3e-5)),
    "learning rate / 1,000": Row(replace(HEALTHY, lr=3e-6)),
    "post-LN, 8 layers, no warmup": Row(replace(HEALTHY, pre_norm=False, layers=8, warmup=0)),
    "initial weights x 50": Row(replace(HEALTHY, std=50.0)),
    "initial weights / 200": Row(replace(HEALTHY, std=0.005)),
    "one-hot attention": Row(replace(HEALTHY, attention=200.0)),
    "SGD that explodes": Row(replace(HEALTHY, optimizer="sgd", lr=30.0)),
    "30 batches of random bytes": Row(fault=Fault(middle(30), batch=random_bytes)),
    "30 batches of zeros": Row(fault=Fault(middle(30), batch=lambda batch, step: batch.zero_())),
    "30 batches with shuffled labels": Row(fault=Fault(middle(30), batch=shuffled)),
    "gradients x 1,000 at 5 steps": Row(fault=Fault(range(MIDDLE, MIDDLE + 50, 10), gradients=scale(1e3))),
    "NaN in the gradients at 3 steps": Row(fault=Fault(range(MIDDLE, MIDDLE + 30, 10), gradients=scale(float("nan")))),
    "schedule jumps x 100": Row(replace(HEALTHY, jump=(MIDDLE, 100.0))),
    "moments lost": Row(fault=Fault([MIDDLE], state=lose_moments)),
    "second moments x 1e6": Row(fault=Fault([MIDDLE], state=blow_moments)),
    "bit flips in weights": Row(fault=Fault([MIDDLE], state=flip_bits)),
}
