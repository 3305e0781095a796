"""A plain PyTorch loop: a broken batch is skipped exactly, and the run is written as a Trainer's would be.

python examples/plain_pytorch.py
"""

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard
from lightning_gradguard.loops import GuardedLoop

torch.manual_seed(0)
x = torch.randn(1600, 8)
y = (x[:, 0] > 0).long()
x[320] = float("nan")
loader = DataLoader(TensorDataset(x, y), batch_size=16)

model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
guard, logger = GradGuard(), TensorBoardLogger("lightning_logs", name="plain")

with GuardedLoop(guard, model, optimizer, total_steps=2 * len(loader), logger=logger) as loop:
    for _ in range(2):
        for inputs, targets in loop.batches(loader):
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loop.backward(loss)
            loop.step()
        if loop.should_stop:
            break

print(guard.report())
print(f"last loss {loss:.3f}; see it: tensorboard --logdir lightning_logs")
