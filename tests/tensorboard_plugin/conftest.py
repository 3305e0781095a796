"""Recorded runs of real Trainers, and readers of event files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard import context
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from torch import nn
from werkzeug.test import Client

from lightning_gradguard import GradGuard
from lightning_gradguard.detectors import LossSpike, NonFinite
from lightning_gradguard.show import metadata
from lightning_gradguard.show.run_reader import RunReader
from lightning_gradguard.tensorboard_plugin.plugin import GradGuardPlugin

STEPS, BAD = 160, range(80, 86)


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.head(self.encoder(batch[0])), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def train(logger: Logger, policy: str) -> None:
    """Trains 160 steps with six bad batches in the middle; every second step is logged."""
    torch.manual_seed(0)
    x = torch.randn(STEPS, 32, 16)
    y = (x @ torch.randn(16, 4)).argmax(dim=-1)
    x[BAD.start : BAD.stop] *= -300.0
    guard = GradGuard(policy, detectors=[NonFinite(), LossSpike()])
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=logger, log_every_n_steps=2,
        callbacks=[guard], enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Classifier(), torch.utils.data.DataLoader(list(zip(x, y, strict=True)), batch_size=None))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory with the runs `guarded` and `unguarded`."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    root = tmp_path_factory.mktemp("trained")
    train(TensorBoardLogger(root, name="", version="guarded"), "protect")
    train(TensorBoardLogger(root, name="", version="unguarded"), "monitor")
    return root


@pytest.fixture
def open_provider() -> Callable[[Path], MultiplexerDataProvider]:
    """Reads a log directory as TensorBoard does, with all samples kept."""

    def read(logdir: Path) -> MultiplexerDataProvider:
        store = EventMultiplexer(tensor_size_guidance={metadata.PLUGIN_NAME: 0})
        store.AddRunsFromDirectory(str(logdir))
        store.Reload()
        return MultiplexerDataProvider(store, str(logdir))

    return read


@pytest.fixture
def open_run(open_provider: Callable[[Path], MultiplexerDataProvider]) -> Callable[[Path, str], RunReader]:
    """Reads one run of a log directory."""
    return lambda logdir, run=".": RunReader(open_provider(logdir), context.RequestContext(), "", run)


@pytest.fixture
def client_of(open_provider: Callable[[Path], MultiplexerDataProvider]) -> Callable[[Path], Client]:
    """Creates an HTTP client of a TensorBoard that serves a log directory."""

    def start(logdir: Path) -> Client:
        provider = open_provider(logdir)
        plugin = GradGuardPlugin(TBContext(data_provider=provider, logdir=str(logdir)))
        return Client(TensorBoardWSGI([plugin], data_provider=provider))

    return start


@pytest.fixture(scope="session")
def trained_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with GradGuard and only a `CSVLogger`."""
    root = tmp_path_factory.mktemp("csv")
    train(CSVLogger(root, name="", version="guarded"), "protect")
    return root / "guarded"
