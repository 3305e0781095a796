"""Nothing in the package causes a warning in a training with dead layers (warnings are errors: see pyproject.toml)."""

from __future__ import annotations

import pytest
import torch
from runs import Net, fit
from torch import Tensor, nn

from lightning_gradguard import GradGuard


class DeadLayers(Net):
    """Two layers receive a gradient of exactly zero, and one has parameters of exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = nn.ModuleList(nn.Linear(8, 3) for _ in range(3))
        nn.init.zeros_(self.dead[0].weight)
        nn.init.zeros_(self.dead[0].bias)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        first, *others = self.dead
        outputs = self.net(batch[0]) + first(batch[0])
        return nn.functional.cross_entropy(outputs, batch[1]) + 0 * sum(layer(batch[0]).sum() for layer in others)


@pytest.mark.parametrize("policy", ["monitor", "protect", "repair"])
def test_a_training_with_dead_layers_warns_of_nothing(policy: str) -> None:
    guard = GradGuard(policy)  # type: ignore[arg-type]
    module = DeadLayers()
    fit(module, guard)
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())
