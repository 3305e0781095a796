"""Lightning Fabric: the same loop, with model and optimizer as Fabric has set them up.

python examples/fabric.py
"""

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard
from lightning_gradguard.loops import GuardedLoop
from lightning_gradguard.remedies import ZClip

fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
fabric.seed_everything(0)
x = torch.randn(1600, 8)
y = (x[:, 0] > 0).long()
x[320] *= 1e6
loader = fabric.setup_dataloaders(DataLoader(TensorDataset(x, y), batch_size=16))

net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
model, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters(), lr=1e-2))
guard = GradGuard(clip=ZClip())

with GuardedLoop(guard, model, optimizer, total_steps=len(loader), fabric=fabric) as loop:
    for inputs, targets in loop.batches(loader):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loop.backward(loss)
        loop.step()

print(guard.report())
print(f"last loss {loss:.3f}")
