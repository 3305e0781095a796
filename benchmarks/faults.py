"""Does a run reach its usual loss after a fault? Compares no guard, clipping, other tools, and GradGuard.

    python benchmarks/faults.py [--seeds 5] [--steps 60 150 231] [--tools NAME ...] [--markdown FILE]

A small network learns four overlapping classes in 300 steps, with a fault at one step. The result is the final
validation loss, compared with the same run without the fault. The exit code is 1 if a run with GradGuard failed: its
loss must be within 3 % of the healthy run's, or, if every batch is bad, it must stop with finite weights and an
unrecoverable incident.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from parallel import every
from peers import TOOLS
from recipes.base import Learner, Program, batches, run
from recipes.nets import classify, mlp
from results import publish
from rich.table import Table
from torch import Tensor

from lightning_gradguard import GradGuard
from lightning_gradguard.findings import UNRECOVERABLE

GUARD, NO_GUARD = "GradGuard", "no guard"
STEPS, CLASSES, MARGIN = 300, 4, 0.03
FOREVER = 10**9


class Fault(pl.Callback):
    """Scales `steps` batches from step `at` on, or multiplies the learning rate at step `at`."""

    def __init__(self, at: int, steps: int = 1, scale: float = 1.0, lr: float = 1.0) -> None:
        self.at, self.steps, self.scale, self.lr, self.batches = at, steps, scale, lr, 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int):
        if self.at <= self.batches < self.at + self.steps and self.scale != 1.0:
            batch[0].mul_(self.scale)
        if self.batches == self.at and self.lr != 1.0:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] *= self.lr
        self.batches += 1


@dataclass(frozen=True)
class Scene:
    """One row of the table: the fault (None in a healthy run), the network, and the number of steps."""

    fault: Callable[[int], Fault] | None = None
    batchnorm: bool = False
    steps: int = STEPS
    endless: bool = False

    @property
    def healthy(self) -> str:
        """Name of the same scene without the fault."""
        return next(n for n, s in SCENES.items() if s == Scene(batchnorm=self.batchnorm, steps=self.steps))


SCENES = {
    "none": Scene(),
    "none, BatchNorm": Scene(batchnorm=True),
    "none, 1,000 steps": Scene(steps=1000),
    "one NaN batch": Scene(partial(Fault, scale=math.nan)),
    "one Inf batch": Scene(partial(Fault, scale=math.inf)),
    "ten NaN batches": Scene(partial(Fault, scale=math.nan, steps=10)),
    "inputs x1e4, one batch": Scene(partial(Fault, scale=1e4)),
    "LR x1000 from then on": Scene(partial(Fault, lr=1000.0)),
    "LR x1000 from then on, 1,000 steps": Scene(partial(Fault, lr=1000.0), steps=1000),
    "LR x100 from then on, 1,000 steps": Scene(partial(Fault, lr=100.0), steps=1000),
    "BatchNorm, one NaN batch": Scene(partial(Fault, scale=math.nan), batchnorm=True),
    "BatchNorm, inputs x1e4, one batch": Scene(partial(Fault, scale=1e4), batchnorm=True),
    "NaN in every batch": Scene(partial(Fault, scale=math.nan, steps=FOREVER), endless=True),
}


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four overlapping Gaussian clusters in 16 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    centres = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(0))
    return 0.55 * centres[y] + torch.randn(count, 16, generator=generator), y


def program(batchnorm: bool) -> Program:
    """MLP 16-64-64-4 under AdamW."""
    net = mlp(16, 64, 64, CLASSES, norm=batchnorm)
    return Program(Learner(net, classify, partial(torch.optim.AdamW, lr=1e-3)), batches(*points(2048, 1)))


@dataclass(frozen=True)
class Ending:
    """Result of one run."""

    loss: float
    finite: bool
    stopped: bool
    unrecoverable: bool = False
    story: str = ""


def end(name: str, at: int, seed: int, tool: str) -> Ending:
    """Runs one scene under one tool."""
    scene, (guards, options) = SCENES[name], TOOLS[tool]()
    faults = [scene.fault(at)] if scene.fault is not None else []
    outcome = run(partial(program, scene.batchnorm), seed, scene.steps, [*faults, *guards], **options)
    x, y = points(2048, 2)
    with torch.no_grad():
        loss = float(classify(outcome.module.net.eval(), x, y))  # type: ignore[operator,arg-type]
    ours = [guard for guard in guards if isinstance(guard, GradGuard)]
    unrecoverable = any(incident.outcome == UNRECOVERABLE for guard in ours for incident in guard.incidents)
    story = "\n".join(str(guard.report()) for guard in ours)
    return Ending(loss, outcome.finite and math.isfinite(loss), outcome.steps < scene.steps, unrecoverable, story)


def passed(name: str, ending: Ending, healthy: float) -> bool:
    """Whether the run meets the criterion in the module's docstring."""
    if SCENES[name].endless:
        return ending.finite and ending.stopped and ending.unrecoverable
    return ending.finite and not ending.stopped and ending.loss <= (1 + MARGIN) * healthy


def cell(endings: list[Ending], healthy: list[float]) -> str:
    """Median loss and the worst difference from the healthy run; number of runs with NaN weights or stopped."""
    lost, stopped = sum(not e.finite for e in endings), sum(e.stopped for e in endings)
    pairs = sorted((e.loss, e.loss / h - 1) for e, h in zip(endings, healthy, strict=True) if e.finite)
    parts = [f"{pairs[len(pairs) // 2][0]:.3f} (worst {max(p[1] for p in pairs):+.1%})"] if pairs else []
    parts += [f"NaN weights {lost}/{len(endings)}"] if lost else []
    parts += [f"stopped {stopped}/{len(endings)}"] if stopped else []
    return ", ".join(parts)


def main() -> int:
    """One row per scene, one column per tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs="*", default=[60, 150, 231])
    parser.add_argument("--scenes", nargs="*", default=list(SCENES))
    parser.add_argument("--tools", nargs="*", default=list(TOOLS))
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    options = parser.parse_args()
    seeds, tools = range(options.seeds), options.tools
    twins = [(SCENES[name].healthy, 0, seed, NO_GUARD) for name in options.scenes for seed in seeds]
    jobs = [
        (name, at, seed, tool)
        for name in options.scenes
        for at in (options.steps if SCENES[name].fault else [0])
        for seed in seeds
        for tool in tools
    ]
    endings = every(end, list(dict.fromkeys([*twins, *jobs])))
    healthy = {job: endings[SCENES[job[0]].healthy, 0, job[2], NO_GUARD].loss for job in jobs}
    title = f"Final validation loss; faults at steps {options.steps} of {STEPS}, {options.seeds} seeds each"
    table = Table("fault", *tools, title=title)
    for name in options.scenes:
        columns = [[job for job in jobs if (job[0], job[3]) == (name, tool)] for tool in tools]
        table.add_row(name, *(cell([endings[job] for job in c], [healthy[job] for job in c]) for c in columns))
    publish(table, options.markdown, "faults")
    broken = [job for job in jobs if job[3] == GUARD and not passed(job[0], endings[job], healthy[job])]
    for job in broken:
        print(*job, f"loss {endings[job].loss:.4f}, healthy {healthy[job]:.4f}", endings[job].story)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
