"""A GAN with two optimizers: the guard keeps statistics, baselines and incidents of each of them apart.

A broken batch of real data spoils the critic's step. It is skipped; the generator's step is not affected.
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard


class GAN(pl.LightningModule):
    """Generates points on a circle."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> None:
        (real,) = batch
        generator, critic = self.optimizers()
        fake = self.generator(torch.randn(len(real), 4))
        softplus = nn.functional.softplus
        self.take(critic, softplus(self.critic(fake.detach())).mean() + softplus(-self.critic(real)).mean())
        self.take(generator, softplus(-self.critic(fake)).mean())

    def take(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.99)) for net in (self.generator, self.critic)]


if __name__ == "__main__":
    pl.seed_everything(0)
    angle = 2 * torch.pi * torch.rand(1600)
    points = torch.stack([angle.cos(), angle.sin()], 1)
    points[800] = torch.nan
    pl.Trainer(max_epochs=2, callbacks=[GradGuard()]).fit(GAN(), DataLoader(TensorDataset(points), batch_size=16))
