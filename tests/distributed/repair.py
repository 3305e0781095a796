"""One process of a launch: runs that `policy="repair"` has to cure, each process with its part of every batch."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_gradguard import GradGuard
from lightning_gradguard.detectors import NoProgress
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.policy import Policy
from lightning_gradguard.remedies import AbstractRemedy, Reinitialize, ScaleLR, TryEach
from lightning_gradguard.step.pending_step import PendingStep

STEPS, ROWS = 160, 16


class Slow(pl.LightningModule):
    """Learns three classes with a rate that is far too small; rank `part` of `parts` sees its rows of each batch.

    Args:
        parts: How many processes share each batch.
        lr: Adam's learning rate.
        fails: Whether the last process cannot take a step with a first layer that `Wide` has drawn.
    """

    def __init__(self, parts: int = 1, lr: float = 1e-5, fails: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        self.parts, self.lr, self.fails = parts, lr, fails

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(int(batch))
        y = torch.randint(0, 3, (ROWS,), generator=generator)
        x = torch.randn(ROWS, 8, generator=generator) + 2 * nn.functional.one_hot(y, 8)
        part = self.global_rank % self.parts
        if self.fails and part == self.parts - 1 and self.net[0].weight.std() > 0.25:
            raise RuntimeError("out of memory")
        rows = torch.arange(ROWS).reshape(self.parts, -1)[part]
        return nn.functional.cross_entropy(self.net(x[rows]), y[rows])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(range(STEPS), batch_size=1)


@dataclass(frozen=True)
class Wide(AbstractRemedy):
    """Draws the first layer's weights with a standard deviation of 0.3, differently in each process."""

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        assert step.module is not None
        rank = int(os.environ.get("RANK", "0"))
        nn.init.normal_(step.module.net[0].weight, std=0.3, generator=torch.Generator().manual_seed(rank))
        return self.did("drew wide weights")


def guard(*trials: tuple[AbstractRemedy, ...]) -> GradGuard:
    """One that tries these sets of remedies, or those of `policy="repair"`."""
    if not trials:
        return GradGuard("repair", sample_every=10)
    return GradGuard(Policy({"no_progress": [TryEach(trials)]}), [NoProgress()], sample_every=10)


def tell(module: Slow, watched: GradGuard | None, trainer: dict[str, Any]) -> dict[str, Any]:
    """Trains; what the guard did, and where the weights and losses are."""
    losses = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if watched is not None:
                losses.append(watched.last_report.stats.loss)

    options = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False, **trainer,
    }  # fmt: skip
    pl.Trainer(callbacks=[*([watched] if watched is not None else []), Watch()], **options).fit(module)
    return {
        "incidents": [
            {"kind": i.kind, "actions": list(map(str, i.actions)), "trials": [[t.remedies, t.loss] for t in i.trials]}
            for i in (watched.incidents if watched is not None else ())
        ],
        "losses": losses,
        "weights": {name: p.detach().flatten().tolist() for name, p in module.named_parameters()},
    }


#: Cell -> module and guard, by how many processes share each batch.
CELLS = {
    "repair": lambda parts: (Slow(parts), guard()),
    "random": lambda parts: (Slow(parts), guard((Wide(), ScaleLR(1000)), (Reinitialize(), ScaleLR(1000)))),
    "fails": lambda parts: (Slow(parts, fails=True), guard((Wide(), ScaleLR(1000)), (ScaleLR(300),))),
    "healthy": lambda parts: (Slow(parts, lr=1e-2), guard()),
    "unguarded": lambda parts: (Slow(parts, lr=1e-2), None),
}


def main(folder: Path, cells: list[str]) -> None:
    """Writes a file for each cell."""
    world = int(os.environ["WORLD_SIZE"])
    for cell in cells:
        try:
            module, watched = CELLS[cell](world)
            strategy = DDPStrategy(process_group_backend="gloo")
            told = tell(module, watched, {"strategy": strategy, "devices": world})
        except Exception:
            told = {"error": traceback.format_exc()}
        (folder / f"{cell}.{os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    faulthandler.enable()
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
