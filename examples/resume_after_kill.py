"""A run that is killed in the middle of an epoch, and goes on from the end of the epoch before.

The first process dies without an exception, as under `kill -9`. The second one resumes with the same baselines, and
ends with the weights of a run that was never interrupted, bit for bit.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard


class Classifier(pl.LightningModule):
    def __init__(self, killed_at: int | None) -> None:
        super().__init__()
        self.net, self.killed_at = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)), killed_at

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.global_step == self.killed_at:
            os._exit(9)
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def train(folder: str, killed_at: int | None = None) -> float:
    """Trains, or goes on from the last checkpoint in `folder`; returns the sum of the weights."""
    pl.seed_everything(0)
    x = torch.randn(640, 8)
    y = (x[:, 0] > 0).long()
    x[300] = torch.nan
    module = Classifier(killed_at)
    trainer = pl.Trainer(max_epochs=3, callbacks=[GradGuard(), ModelCheckpoint(folder, save_last=True)], logger=False)
    last = Path(folder, "last.ckpt")
    trainer.fit(module, DataLoader(TensorDataset(x, y), 16), ckpt_path=last if last.exists() else None)
    return sum(parameter.double().sum().item() for parameter in module.parameters())


if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=train, args=("killed", 57))
    process.start()
    process.join()
    print(f"the first process ended with exit code {process.exitcode}")
    print("the resumed run ends with the same weights:", train("killed") == train("whole"))
