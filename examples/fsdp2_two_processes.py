"""FSDP2 in two processes on a CPU: one of them gets a batch of NaN, both skip it, and both know the same norms.

Run it with `python examples/fsdp2_two_processes.py`; Lightning starts the second process. On a machine with GPUs,
drop `accelerator="cpu"`: nothing else changes, and nothing about GradGuard does.
"""

from __future__ import annotations

import os
import sys

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))

    def configure_model(self) -> None:
        for layer in (*(part for part in self.net if isinstance(part, nn.Linear)), self.net):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.trainer.global_step == 5 and self.global_rank == 1:
            x = x * torch.nan
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(640, 16)
    data = DataLoader(TensorDataset(x, x[:, :4].argmax(1)), batch_size=32)
    guard = GradGuard()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        callbacks=[guard],
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(), data)
    for incident in guard.incidents:
        sys.stdout.write(f"process {trainer.global_rank}: {incident}\n")  # one write, so that lines stay whole
        sys.stdout.flush()


if __name__ == "__main__":
    main()
    os._exit(0)  # gloo's threads outlive destroy_process_group() and may abort an orderly exit
