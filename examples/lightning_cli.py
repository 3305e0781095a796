"""GradGuard in the YAML of a LightningCLI.

Run it with `python examples/lightning_cli.py fit --config examples/lightning_cli.yaml`. An option of the command line
changes one setting of the file: `--trainer.callbacks.policy=monitor`.
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(pl.LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)


class Signs(pl.LightningDataModule):
    """The sign of the first of eight numbers; one sample is broken."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        x = torch.randn(1600, 8)
        y = (x[:, 0] > 0).long()
        x[1000] = torch.nan
        return DataLoader(TensorDataset(x, y), self.batch_size)


if __name__ == "__main__":
    LightningCLI(Classifier, Signs)
