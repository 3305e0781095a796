"""A small transformer with bfloat16 autocast and gradient accumulation; one of four accumulated batches is broken.

A step is made of four batches here. The whole step is skipped, and the report says which of the four was broken.
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard


class Sorter(pl.LightningModule):
    """Sorts sequences of symbols."""

    def __init__(self, symbols: int = 8, length: int = 12, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(symbols, width), nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, symbols)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        symbols, weight = batch
        logits = self.head(self.blocks(self.embed(symbols) + self.place))
        losses = nn.functional.cross_entropy(logits.mT, symbols.sort(1).values, reduction="none")
        return (losses.mean(1) * weight).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    pl.seed_everything(0)
    weights = torch.ones(3200)
    weights[1000] = torch.inf  # a weight that was divided by zero
    data = TensorDataset(torch.randint(0, 8, (3200, 12)), weights)
    trainer = pl.Trainer(max_epochs=1, precision="bf16-mixed", accumulate_grad_batches=4, callbacks=[GradGuard()])
    trainer.fit(Sorter(), DataLoader(data, batch_size=16))
