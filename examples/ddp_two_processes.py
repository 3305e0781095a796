"""DDP in two processes on a CPU: one of them gets a batch of NaN, both skip the step, and their weights stay equal.

Run it with `python examples/ddp_two_processes.py`; Lightning starts the second process. On a machine with GPUs, drop
`accelerator="cpu"`.
"""

from __future__ import annotations

import os
import sys

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    pl.seed_everything(0)
    x = torch.randn(640, 16)
    y = x[:, :4].argmax(1)
    x[321] = torch.nan  # the second process gets every other sample, beginning with the second one
    module = Classifier()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=3, callbacks=[GradGuard()], enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=32))
    total = sum(parameter.double().sum().item() for parameter in module.parameters())
    sys.stdout.write(f"process {trainer.global_rank}: sum of the weights {total:.12f}\n")  # one write: lines stay whole
    sys.stdout.flush()
    os._exit(0)  # gloo's threads outlive destroy_process_group() and may abort an orderly exit
