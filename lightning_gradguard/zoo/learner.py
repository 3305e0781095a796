"""The module that every case trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torchmetrics
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.fixes import Changes

Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class Learner(pl.LightningModule):
    """A network with its loss, metric and optimizer.

    Args:
        net: The network.
        loss: Called with the network's output and the targets. A function, so that a cure can replace it.
        metric: Updated with the network's output and the targets of the validation data.
        optimizer: Creates the optimizer from parameters.
    """

    def __init__(self, net: nn.Module, loss: Loss, metric: torchmetrics.Metric, optimizer: MakeOptimizer) -> None:
        super().__init__()
        self.net, self.loss, self.metric, self.optimizer_factory = net, loss, metric, optimizer
        self.edits: list[Callable[[Optimizer], Changes]] = []
        self.warmup_steps = 0

    def forward(self, x: Tensor) -> Tensor:
        """The network's output."""
        out: Tensor = self.net(x)
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss = self.loss(self(inputs), targets)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, targets = batch
        self.metric.update(self(inputs), targets)

    def on_validation_epoch_end(self) -> None:
        self.log("metric", self.metric.compute())
        self.metric.reset()

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.net.parameters())
        for edit in self.edits:
            edit(optimizer)
        if not self.warmup_steps:
            return optimizer
        ramp = _linear_ramp(optimizer, self.warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ramp, "interval": "step"}}


def _linear_ramp(optimizer: Optimizer, steps: int) -> Any:
    from torch.optim.lr_scheduler import LinearLR

    return LinearLR(optimizer, start_factor=1 / steps, total_iters=steps)


def classifier(net: nn.Module, classes: int, optimizer: MakeOptimizer) -> Learner:
    """A learner with cross-entropy and accuracy."""
    accuracy = torchmetrics.classification.MulticlassAccuracy(classes, average="micro")
    return Learner(net, nn.functional.cross_entropy, accuracy, optimizer)


def regressor(net: nn.Module, optimizer: MakeOptimizer) -> Learner:
    """A learner with the mean squared error and the coefficient of determination."""
    return Learner(net, nn.functional.mse_loss, torchmetrics.R2Score(), optimizer)
