"""A remedy of your own in a policy: noise in the gradients while all samples look the same to the net.

Run it with `python examples/custom_remedy.py`. How a package offers a remedy to everyone who installs it is in
`docs/extending.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import Finding, GradGuard, Policy
from lightning_gradguard.remedies import AbstractRemedy, Action, PendingStep


@dataclass(frozen=True)
class AddNoise(AbstractRemedy):
    """Adds Gaussian noise to the gradients (Neelakantan et al. 2015, arXiv 1511.06807).

    Args:
        std: Standard deviation of the noise.
    """

    std: float = 0.01

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        generator = torch.Generator().manual_seed(step.stats.step)  # the same noise in every process
        for grad in step.grads:
            noise = torch.randn(grad.shape, generator=generator).to(grad)
            grad.add_(noise, alpha=self.std * step.grad_scale)  # gradients may still be multiplied by a loss scale
        return self.did(f"added noise of {self.std:g} to the gradients") if step.grads else None


class Classifier(pl.LightningModule):
    """A net whose weights are all zero: without noise, nothing but the last bias would ever change."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        for parameter in self.net.parameters():
            nn.init.zeros_(parameter)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    torch.manual_seed(0)
    y = torch.randint(0, 3, (3200,))
    x = torch.randn(3200, 8) + 2 * nn.functional.one_hot(y, 8)
    guard = GradGuard(policy=Policy({"poor_initialization": [AddNoise()]}))
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[guard], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(), DataLoader(TensorDataset(x, y), 16))
    print(guard.report())


if __name__ == "__main__":
    main()
