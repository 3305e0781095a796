"""One process of a launch: clips groups of parameters under each strategy named on the command line."""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from story import Story
from torch.distributed.tensor import DTensor

from lightning_gradguard import GradGuard
from lightning_gradguard.remedies import AbstractClip, PendingStep

LIMITS = {r"net\.first": 0.01, r"net\.last\.weight": 0.02}


@dataclass(frozen=True)
class Fixed(AbstractClip):
    limit: float

    def init(self) -> dict[str, Any]:
        return {}

    def apply(self, state: dict[str, Any], step: PendingStep) -> dict[str, Any]:
        step.clip_to(self.limit)
        return state


class Witness(pl.Callback):
    """Stands behind the guard: squared norms of what the optimizer gets; FSDP1's are those of a piece."""

    def __init__(self, guard: GradGuard) -> None:
        self.guard, self.rows = guard, list[dict[str, Any]]()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        left = dict.fromkeys(("first", "middle", "last.weight"), 0.0)
        for name, p in pl_module.named_parameters():
            for part in left:
                if p.grad is not None and f".{part}" in name.replace("_fsdp_wrapped_module.", ""):
                    grad = p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
                    left[part] += float(grad.double().square().sum())
        report = self.guard.last_report
        self.rows.append({"norms": dict(report.stats.group_norm), "clip": report.outcome.clip_coefficient, **left})


def run(module: Story, trainer: dict[str, Any]) -> list[dict[str, Any]]:
    groups = {"first": "first", "middle": "middle", "last.weight": "last.weight"}
    guard = GradGuard(detectors=[], groups=groups, clip={regex: Fixed(limit) for regex, limit in LIMITS.items()})
    witness = Witness(guard)
    pl.Trainer(
        accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, callbacks=[guard, witness], **trainer,
    ).fit(module)  # fmt: skip
    return witness.rows


def main(folder: Path, cells: list[str]) -> None:
    from worker import CELLS, WORLD

    for cell in cells:
        try:
            module, trainer = CELLS[cell]()
            told: dict[str, Any] = {"rows": run(module, {**trainer, "devices": WORLD})}
        except Exception:
            told = {"error": traceback.format_exc()}
        (folder / f"{cell}.{os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # FSDP1's threads may abort an orderly exit
