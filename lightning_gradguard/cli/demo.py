"""`gradguard demo`: trains without faults, with injected faults, and with the same faults and GradGuard."""

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
from lightning_gradguard.extras import needed_for
from lightning_gradguard.findings import shortlist

#: How far the guarded run's validation accuracy may be below the healthy run's, as a fraction. Chosen, not measured.
MARGIN = 0.02
#: When each fault is injected, as a fraction of the steps.
SCHEDULE = {"nan": 0.2, "inf": 0.3, "scaled": 0.4, "lr": 0.5, "burst": 0.75}


class DigitsCNN(pl.LightningModule):
    """A small convolutional network with BatchNorm for 8x8 digits."""

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


class InjectFaults(pl.Callback):
    """Injects faults at fixed fractions of a run's steps, see `SCHEDULE`.

    A batch of NaN, a batch of Inf, and a batch scaled by 1e4. In the middle of the run the learning rate is multiplied
    by 1,000. Then ten batches of NaN in a row.

    Args:
        steps: Optimizer steps of the run.
    """

    def __init__(self, steps: int) -> None:
        at = {name: int(fraction * steps) for name, fraction in SCHEDULE.items()}
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


class _ProgressBar(pl.Callback):
    """Advances one line of a rich progress display."""

    def __init__(self, progress: Progress, label: str, steps: int) -> None:
        self.progress, self.task = progress, progress.add_task(label, total=steps)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.progress.advance(self.task)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.progress.update(self.task, completed=trainer.global_step)


def digits_loaders(seed: int, batch_size: int = 64) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation batches of scikit-learn's 1,797 digits, 70 % for training.

    Raises:
        ImportError: If scikit-learn is not installed. The extra `zoo` installs it.
    """
    with needed_for("The demo"):
        from sklearn.datasets import load_digits
    images, digits = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(digits)
    shuffle = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=shuffle)
    train, val = order[:1257], order[1257:]
    return (
        DataLoader(TensorDataset(x[train], y[train]), batch_size, shuffle=True, drop_last=True, generator=shuffle),
        DataLoader(TensorDataset(x[val], y[val]), 540),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread within it: for layers as small as these, more of them only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train(
    version: str,
    logdir: Path,
    progress: _ProgressBar,
    guard: GradGuard,
    *,
    faults: bool,
    seed: int,
    steps: int,
    accelerator: str,
) -> float:
    """Trains one run into `logdir/version`; returns its final validation accuracy."""
    pl.seed_everything(seed, verbose=False)
    train_loader, val_loader = digits_loaders(seed)
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator=accelerator, devices=1, log_every_n_steps=1,
        logger=TensorBoardLogger(logdir, name="", version=version),
        callbacks=[*([InjectFaults(steps)] if faults else []), progress, guard],
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
    """Trains on digits three times: without faults, with injected faults, and with the same faults and GradGuard.

    Args:
        logdir: Directory for the TensorBoard files of the three runs.
        seed: Random seed of all three runs.
        accelerator: As in Lightning's Trainer: `auto`, `cpu`, `gpu`, ...
        steps: Optimizer steps of each run, at least 100.
        policy: GradGuard's policy in the third run.

    Returns:
        The exit code: 1 if the third run's accuracy is more than two percentage points below the first run's, else 0.

    Raises:
        ValueError: If `steps` is below 100, which is too short for the faults.
    """
    if steps < 100:
        raise ValueError(f"`gradguard demo --steps` must be at least 100, got {steps}.")
    console = Console()
    guard = GradGuard(policy)
    runs = {  # directory: (label, guard, whether faults are injected)
        "healthy": ("no faults", GradGuard("monitor"), False),
        "faults": ("injected faults", GradGuard("monitor"), True),
        "guarded": ("same faults, with GradGuard", guard, True),
    }
    columns = (TextColumn("{task.description:>27}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    accuracy = {}
    console.print(f"Three runs of {steps} steps on one CPU thread: about 20 seconds for 400 steps.", highlight=False)
    with _quiet(), one_thread(), Progress(*columns, console=console) as progress:
        for version, (label, callback, faults) in runs.items():
            bar = _ProgressBar(progress, label, steps)
            accuracy[label] = train(
                version, logdir, bar, callback, faults=faults, seed=seed, steps=steps, accelerator=accelerator
            )
    console.print(accuracy_table(accuracy), incident_table(guard))
    console.print(f"\nTo compare the runs: tensorboard --logdir {logdir}", highlight=False, soft_wrap=True)
    healthy, _, guarded = accuracy.values()
    return int(guarded < healthy - MARGIN)


def accuracy_table(accuracy: dict[str, float]) -> Table:
    """The final validation accuracy of each run."""
    table = Table("run", "validation accuracy", title="Handwritten digits, after the last step")
    for label, value in accuracy.items():
        table.add_row(label, f"{value:.1%}")
    return table


def incident_table(guard: GradGuard) -> Table:
    """The incidents of a run."""
    table = Table("step", "kind", "where", "actions", "outcome", title="Incidents of the run with GradGuard")
    for incident in guard.report().incidents:
        actions = ", ".join(incident.actions) or "none"
        where = shortlist(incident.layers, 2) or incident.detail
        table.add_row(incident.steps, incident.kind, where, actions, incident.outcome)
    return table


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides warnings and log messages, which would break up the progress bars; the tables list every incident."""
    # Lightning's messages go through the logger of whichever namespace was imported last.
    names = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric", "lightning_gradguard")
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
