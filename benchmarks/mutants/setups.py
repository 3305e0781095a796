"""One training run that is not built yet: what an operator may change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from recipes.base import Program, batches
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

Loss = Callable[[Tensor, Tensor], Tensor]


class Module(pl.LightningModule):
    """A model, a loss of its outputs and the targets, and an optimizer with its options, all open to change.

    Args:
        net: The model.
        loss: Returns a scalar.
        rule: Class of the optimizer.
        options: Of the optimizer.
    """

    def __init__(self, net: nn.Module, loss: Loss, rule: type[torch.optim.Optimizer], **options: Any) -> None:
        super().__init__()
        self.net, self.loss, self.rule, self.options = net, loss, rule, options
        #: Step -> factor of the learning rate.
        self.schedule: Callable[[int], float] | None = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = self.rule([p for p in self.net.parameters() if p.requires_grad], **self.options)
        if self.schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, self.schedule), "interval": "step"},
        }


class Data(NamedTuple):
    """Inputs and targets to train with, and others to measure with."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass
class Setup:
    """What a run is made of.

    Args:
        module: Model, loss and optimizer.
        data: Copies, which may be changed in place.
        size: Of a batch.
        steps: Of the run.
        random: What an operator draws from.
        callbacks: They strike during the run.
        trainer: Options of the Trainer.
        onset: First step at which a fault can be seen.
    """

    module: Module
    data: Data
    size: int
    steps: int
    random: Random
    callbacks: list[pl.Callback] = field(default_factory=list)
    trainer: dict[str, Any] = field(default_factory=dict)
    onset: int = 0

    @property
    def net(self) -> nn.Module:
        return self.module.net

    def program(self) -> Program:
        """What `recipes.base.run` trains."""
        loader = batches(self.data.x, self.data.y, size=self.size)
        return Program(self.module, loader, {**self.trainer, "max_steps": self.steps}, self.callbacks)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of classes; the last dimension of the outputs holds their logits."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(outputs, targets)


@torch.no_grad()
def quality(net: nn.Module, data: Data) -> float:
    """Share of correct classes, or of the explained variance; 0 if an output is not finite."""
    net.eval()
    dtype = next(net.parameters()).dtype
    x = data.test_x.to(dtype) if data.test_x.is_floating_point() else data.test_x
    outputs, y = net(x).float(), data.test_y
    if not bool(outputs.isfinite().all()):
        return 0.0
    if not y.is_floating_point():
        return float((outputs.argmax(-1) == y).double().mean())
    left = float((outputs - y).double().square().mean() / y.double().var())
    return max(0.0, 1.0 - left) if math.isfinite(left) else 0.0
