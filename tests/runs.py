"""Small real runs for the tests: a module, loaders and faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Net(pl.LightningModule):
    """A regression or classification net on fixed random data."""

    def __init__(self, net: nn.Module | None = None, optimizer: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.net = net or nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        self.make_optimizer = optimizer or (lambda params: torch.optim.AdamW(params, lr=1e-2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


def loader(batches: int = 40, batch_size: int = 16, seed: int = 0) -> DataLoader[Any]:
    """The same batches in the same order every epoch: three classes that can be told apart."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (batches * batch_size,), generator=generator)
    x = torch.randn(len(y), 8, generator=generator) + 2 * nn.functional.one_hot(y, 8)
    return DataLoader(TensorDataset(x, y), batch_size)


class Batches:
    """A loader that hands out these batches; Lightning would take a bare list for several loaders."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = list(batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Faults(pl.Callback):
    """Multiplies the batch of given steps by a number, e.g. NaN."""

    def __init__(self, scale: dict[int, float]) -> None:
        self.scale = scale

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in self.scale:
            batch[0].mul_(self.scale[trainer.global_step])


class Capture(pl.Callback):
    """Keeps what `inspect` returns at the end of every batch."""

    def __init__(self, inspect: Callable[[Any, Any], Any]) -> None:
        self.inspect, self.seen = inspect, []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append(self.inspect(trainer, pl_module))


def fit(module: pl.LightningModule, *callbacks: Any, data: Any = None, **options: Any) -> pl.Trainer:
    """A quiet CPU Trainer, run to its end."""
    settings: dict[str, Any] = dict(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer = pl.Trainer(callbacks=list(callbacks), **{**settings, **options})
    trainer.fit(module, loader() if data is None else data)
    return trainer


def files(folder: Path) -> CSVLogger:
    """A logger whose directory is this folder, for what the guard writes there."""
    return CSVLogger(folder, name="", version="")


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """Whether parameters and buffers are equal bit for bit (NaN equals NaN)."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(7.7), b[k].nan_to_num(7.7)) for k in a)
