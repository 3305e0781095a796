"""An LSTM that forgets: the first symbol of a sequence must be named at its end, and the forget gate is shut.

Nothing is wrong with the loss or the norms of the weights, so clipping does not help. `"repair"` reports that the
gradient does not reach the early steps, tries cures beside the run, and continues with the one that helps.
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard

LENGTH, SYMBOLS = 25, 4


class Recall(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SYMBOLS, 32, batch_first=True)
        self.head = nn.Linear(32, SYMBOLS)
        nn.init.constant_(self.lstm.bias_hh_l0[32:64].detach(), -10.0)  # the forget gate's part

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        sequence, first = batch
        loss = nn.functional.cross_entropy(self.head(self.lstm(sequence)[0][:, -1]), first)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


if __name__ == "__main__":
    pl.seed_everything(0)
    symbols = torch.randint(0, SYMBOLS, (3200, LENGTH))
    data = TensorDataset(nn.functional.one_hot(symbols, SYMBOLS).float(), symbols[:, 0])
    trainer = pl.Trainer(max_epochs=3, callbacks=[GradGuard("repair")])
    trainer.fit(Recall(), DataLoader(data, batch_size=32))
    print(f"last loss {trainer.callback_metrics['loss']:.3f}; a guess has 1.386")
