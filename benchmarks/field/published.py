"""Programs that other people published as broken, and the fix that was accepted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Pair = tuple[Tensor, Tensor]
#: Smallest and largest probability in Keras's losses.
EPS = 1e-7


@dataclass
class Setup:
    """One variant of a program.

    Args:
        net: The net, with its initial weights.
        data: Inputs and targets for training.
        loss: Of the net's output and the targets.
        optimizer: Makes the optimizer of the parameters.
        held_out: For the final measure; the training data where the source has no others.
        batch: Samples of a batch.
        epochs: Passes over the data.
        options: Of the Trainer.
        score: Final measure of output and targets; accuracy or R2 by default, as the targets are.
    """

    net: nn.Module
    data: Pair
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    held_out: Pair | None = None
    batch: int = 32
    epochs: int = 10
    options: dict[str, Any] | None = None
    score: Callable[[Tensor, Tensor], float] | None = None

    def measure(self) -> float:
        """On the held-out data; 0 where the output is not finite."""
        self.net.eval()
        x, y = self.held_out or self.data
        with torch.no_grad():
            output = self.net(x)
        if not bool(torch.isfinite(output).all()):
            return 0.0
        if self.score is not None:
            return self.score(output, y)
        return r2(output, y) if y.is_floating_point() else accuracy(output, y)


@dataclass(frozen=True)
class Program:
    """A published program.

    Args:
        name: A short name.
        source: Its address.
        wrong: What is wrong, according to the source.
        fix: The fix, according to the source.
        kinds: Incidents that name the right cause.
        faulty: Makes the broken variant; called with the seed set.
        fixed: Makes the fixed one.
        mark: Measure between the two.
        inside: Whether the fix can be made inside a run: rate, optimizer, initial weights, hidden activation, inputs.
        data: What is trained on, or stands in for data that cannot be had.
    """

    name: str
    source: str
    wrong: str
    fix: str
    kinds: tuple[str, ...]
    faulty: Callable[[], Setup]
    fixed: Callable[[], Setup]
    mark: float
    inside: bool = True
    data: str = "as in the source"


class Learner(pl.LightningModule):
    """Trains a variant."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.net, self._setup = setup.net, setup

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self._setup.loss(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return self._setup.optimizer(self.net.parameters())


def train(program: Program, variant: str, seed: int, callbacks: list[Any], options: dict[str, Any]) -> Setup:
    """Trains the `"faulty"` or `"fixed"` variant of a program."""
    pl.seed_everything(seed, verbose=False)
    setup: Setup = getattr(program, variant)()
    loader: Any = DataLoader(TensorDataset(*setup.data), setup.batch, shuffle=True)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=setup.epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
        **{**(setup.options or {}), **options},
    )  # fmt: skip
    learner = Learner(setup)
    trainer.fit(learner, loader)
    return replace(setup, net=learner.net)  # a remedy may have exchanged it


# ---------------------------------------------------------------- Keras's ways


def glorot(net: nn.Module) -> nn.Module:
    """Keras's initial weights: Glorot's uniform, biases 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def uniform(net: nn.Module, low: float, high: float) -> nn.Module:
    """All weights uniform."""
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.uniform_(p, low, high)
    return net


def adam(lr: float = 1e-3) -> Callable[[Any], torch.optim.Optimizer]:
    """Keras's Adam."""
    return lambda params: torch.optim.Adam(params, lr, eps=1e-7)


def sgd(lr: float, momentum: float = 0.0, nesterov: bool = False) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda params: torch.optim.SGD(params, lr, momentum=momentum, nesterov=nesterov)


def rmsprop(lr: float) -> Callable[[Any], torch.optim.Optimizer]:
    """Keras's RMSprop."""
    return lambda params: torch.optim.RMSprop(params, lr, alpha=0.9, eps=1e-7)


def categorical(output: Tensor, y: Tensor) -> Tensor:
    """Keras's cross-entropy of probabilities, which it normalizes."""
    p = (output / output.sum(1, keepdim=True)).clamp(EPS, 1 - EPS)
    return F.nll_loss(p.log(), y)


def binary(output: Tensor, y: Tensor) -> Tensor:
    """Keras's cross-entropy of one probability."""
    return F.binary_cross_entropy(output.squeeze(1).clamp(EPS, 1 - EPS), y.float())


def one_hot(output: Tensor, y: Tensor) -> Tensor:
    """Squared error of class indicators."""
    return F.mse_loss(output, F.one_hot(y, output.shape[1]).float())


# ---------------------------------------------------------------- measures


def accuracy(output: Tensor, y: Tensor) -> float:
    found = output.argmax(1) if output.shape[1] > 1 else (output.squeeze(1) > 0.5).long()
    return float((found == y).float().mean())


def of_logit(output: Tensor, y: Tensor) -> float:
    """Accuracy of a single logit."""
    return float(((output.squeeze(1) > 0).long() == y.long()).float().mean())


def r2(output: Tensor, y: Tensor) -> float:
    """Explained share of the variance, at least 0."""
    found = 1 - float(F.mse_loss(output, y)) / max(float(y.var(unbiased=False)), 1e-12)
    return max(0.0, found) if math.isfinite(found) else 0.0
