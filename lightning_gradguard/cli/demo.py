"""`gradguard demo`: a real training run, the same run through a bad night, and the same night under guard."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_gradguard.callback import GradGuard
from lightning_gradguard.findings import shortlist

#: Points of validation accuracy that the guarded run may end below the healthy one.
MARGIN = 0.02


class DigitsCNN(pl.LightningModule):
    """A small convolutional net with BatchNorm for 8x8 digits."""

    def __init__(self, lr: float = 3e-3) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(128, 10)),
        )
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, digits = batch
        loss = nn.functional.cross_entropy(self.net(images), digits)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, digits = batch
        self.accuracy(self.net(images).nan_to_num(), digits)
        self.log("val_accuracy", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class BadNight(pl.Callback):
    """Does to a run what a bad night does, at fixed shares of its steps.

    One batch of NaN, one of Inf, one scaled by 1e4; from the middle on the learning rate is a thousand times what
    it was; and then ten batches of NaN in a row.
    """

    def __init__(self, steps: int) -> None:
        at = {name: int(share * steps) for name, share in SCHEDULE.items()}
        self.scale = {at["nan"]: torch.nan, at["inf"]: torch.inf, at["scaled"]: 1e4}
        self.scale |= {at["burst"] + i: torch.nan for i in range(10)}
        self.lr_from = at["lr"]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step in self.scale:
            batch[0].mul_(self.scale[step])
        if step == self.lr_from:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] *= 1000


#: When each fault comes, as a share of the steps.
SCHEDULE = {"nan": 0.2, "inf": 0.3, "scaled": 0.4, "lr": 0.5, "burst": 0.75}


class _Bar(pl.Callback):
    """One line of a rich progress display."""

    def __init__(self, progress: Progress, label: str, steps: int) -> None:
        self.loss_trend, self.task = progress, progress.add_task(label, total=steps)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.loss_trend.advance(self.task)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.loss_trend.update(self.task, completed=trainer.global_step)


def digits_loaders(seed: int, batch_size: int = 64) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """scikit-learn's 1,797 digits, 70 % for training.

    Raises:
        ImportError: If scikit-learn is missing: it comes with the extra `zoo`.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The demo needs scikit-learn: install 'lightning-gradguard[zoo]'.") from error
    images, digits = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(digits)
    shuffle = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=shuffle)
    train, val = order[:1257], order[1257:]
    return (
        DataLoader(TensorDataset(x[train], y[train]), batch_size, shuffle=True, drop_last=True, generator=shuffle),
        DataLoader(TensorDataset(x[val], y[val]), 540),
    )


def train(
    label: str,
    progress: Progress,
    logdir: Path,
    *,
    seed: int,
    steps: int,
    accelerator: str,
    guard: GradGuard,
    bad: bool,
) -> float:
    """One run; its final validation accuracy."""
    pl.seed_everything(seed, verbose=False)
    train_loader, val_loader = digits_loaders(seed)
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator=accelerator, devices=1, log_every_n_steps=1,
        logger=TensorBoardLogger(logdir, name="", version=label.split(",")[0].replace(" ", "_")),
        callbacks=[*([BadNight(steps)] if bad else []), _Bar(progress, label, steps), guard],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    model = DigitsCNN()
    trainer.fit(model, train_loader)
    (result,) = trainer.validate(model, val_loader, verbose=False)
    return float(result["val_accuracy"])


def demo(
    logdir: Path = Path("gradguard_demo"),
    seed: int = 0,
    accelerator: str = "auto",
    steps: int = 400,
    policy: Literal["monitor", "protect", "repair"] = "protect",
) -> int:
    """Trains on real digits three times: healthy, through a bad night, and through the same night under guard.

    Args:
        logdir: Where TensorBoard finds the three runs.
        seed: The same for all three.
        accelerator: As for Lightning's Trainer.
        steps: Optimizer steps of each run, at least 100.
        policy: The guard's policy in the third run.

    Returns:
        0, or 1 when the guarded run ends more than two points of accuracy below the healthy one.

    Raises:
        ValueError: If `steps` is below 100: the bad night would not fit.
    """
    if steps < 100:
        raise ValueError(f"`gradguard demo --steps` must be at least 100, got {steps}.")
    console = Console()
    guard = GradGuard(policy)
    runs = {
        "healthy": (GradGuard("monitor"), False),
        "bad night, unguarded": (GradGuard("monitor"), True),
        "guarded, the same night": (guard, True),
    }
    columns = (TextColumn("{task.description:>24}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    with _quiet(), Progress(*columns, console=console) as progress:
        accuracy = {
            label: train(label, progress, logdir, seed=seed, steps=steps, accelerator=accelerator, guard=g, bad=bad)
            for label, (g, bad) in runs.items()
        }
    console.print(accuracy_table(accuracy), incident_table(guard))
    console.print(f"\nSee it: tensorboard --logdir {logdir}", highlight=False, soft_wrap=True)
    healthy, _, guarded = accuracy.values()
    return int(guarded < healthy - MARGIN)


def accuracy_table(accuracy: dict[str, float]) -> Table:
    """Final validation accuracy of each run."""
    table = Table("run", "validation accuracy", title="Digits, after the last step")
    for label, value in accuracy.items():
        table.add_row(label, f"{value:.1%}")
    return table


def incident_table(guard: GradGuard) -> Table:
    """Every incident of the guarded run."""
    table = Table("step", "kind", "layer", "what was done", "outcome", title="Incidents of the guarded run")
    for incident in guard.report().incidents:
        done = ", ".join(incident.actions) or "recorded"
        where = shortlist(incident.layers, 2) or incident.detail
        table.add_row(incident.steps, incident.kind, where, done, incident.outcome)
    return table


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps log lines out of the progress bars; the tables say it all."""
    # Lightning's messages go through the logger of whichever namespace was imported last.
    names = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric", "lightning_gradguard")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
