"""Handwritten digits with a few broken images: their batches are skipped, and the report names the images."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    pl.seed_everything(0)
    images, labels = map(torch.tensor, load_digits(return_X_y=True))
    images = images.float() / 16
    images[[100, 700]] = torch.nan
    module = Digits()
    loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)
    pl.Trainer(max_epochs=5, callbacks=[GradGuard()]).fit(module, loader)
    right = module.net(images.nan_to_num()).argmax(1) == labels
    print(f"accuracy on the training data: {right.float().mean():.0%}")
