"""A detector of your own, beside the built-in ones: reports a layer that has almost all of the gradient.

Run it with `python examples/custom_detector.py`. How a package offers a detector to everyone who installs it is in
`docs/extending.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import Finding, GradGuard, GradStats
from lightning_gradguard.detectors import DETECTORS, AbstractDetector, State


@dataclass(frozen=True)
class DominantLayer(AbstractDetector):
    """Reports a layer that has more than `share` of the squared gradient norm for `patience` steps in a row."""

    kind: ClassVar[str] = "dominant_layer"
    share: float = 0.99
    patience: int = 20
    name: str = "dominant_layer"

    def init(self) -> State:
        return {"layer": "", "steps": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if not stats.clean or stats.global_norm == 0 or len(stats.layers) == 1:
            return state, ()
        shares = (stats.grad_norm / stats.global_norm) ** 2
        layer = stats.layers.names[shares.argmax()]
        if shares.max() <= self.share:
            return self.init(), ()
        steps = state["steps"] + 1 if layer == state["layer"] else 1
        detail = f"{100 * shares.max():.1f} % of the squared gradient norm (limit {100 * self.share:g} %)"
        finding = Finding(self.kind, stats.step, (layer,), float(shares.max()), self.share, detail)
        return {"layer": layer, "steps": steps}, (finding,) if steps >= self.patience else ()


class Classifier(pl.LightningModule):
    """A net with large inputs and small first weights, so that its first layer has almost all of the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        nn.init.normal_(self.net[0].weight, std=1e-3)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-7)


def main() -> None:
    torch.manual_seed(0)
    y = torch.randint(0, 3, (640,))
    x = 100 * (torch.randn(640, 8) + 2 * nn.functional.one_hot(y, 8))
    guard = GradGuard(detectors=[*DETECTORS, DominantLayer()])
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[guard], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(), DataLoader(TensorDataset(x, y), 16))
    print(guard.report())


if __name__ == "__main__":
    main()
