"""Calls between modules in one healthy step under `protect`: how often a reader has to change the file.

    python benchmarks/moves.py [--policy protect] [--markdown FILE]

A small classifier trains for 300 steps, and one step in which nothing is sampled and nothing is found is profiled. A
move is a call of a function of this package whose nearest caller within the package is in another module, or that comes
from outside (Lightning or torch).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from recipes.base import Learner, Program, run
from recipes.nets import classify, mlp
from results import publish
from rich.table import Table
from torch.utils.data import DataLoader, TensorDataset

import lightning_gradguard
from lightning_gradguard import GradGuard

PACKAGE = str(Path(lightning_gradguard.__path__[0]).resolve()) + "/"
STEPS, PROFILED = 300, 233
OUTSIDE = "(outside)"


class Profile(pl.Callback):
    """Counts the package's calls in one step; to be put before the guard among the callbacks."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int):
        sys.setprofile(self.count if trainer.global_step == PROFILED else None)

    def count(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and (called := module_of(frame)):
            caller = frame.f_back
            while caller is not None and not module_of(caller):
                caller = caller.f_back
            self.calls[module_of(caller) if caller is not None else OUTSIDE, called] += 1


def module_of(frame: FrameType) -> str:
    """File of the package that a frame runs in, e.g. `detectors/base.py`; empty outside the package."""
    path = frame.f_code.co_filename
    return path.removeprefix(PACKAGE) if path.startswith(PACKAGE) else ""


def program() -> Program:
    """MLP with BatchNorm under AdamW, three classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (16 * STEPS,), generator=generator)
    x = torch.randn(len(y), 8, generator=generator) + 2 * torch.nn.functional.one_hot(y, 8)
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    return Program(Learner(mlp(8, 16, 3, norm=True), classify, optimizer), DataLoader(TensorDataset(x, y), 16))


def main() -> None:
    """One row for each pair of modules, the most frequent first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", choices=["monitor", "protect", "repair"], default="protect")
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    options = parser.parse_args()
    profile, guard = Profile(), GradGuard(options.policy)
    run(program, 0, STEPS, [profile, guard])
    if guard.findings:
        raise RuntimeError(f"The run is not healthy: {guard.findings[0]}")
    moves = {pair: count for pair, count in profile.calls.items() if pair[0] != pair[1]}
    modules = {called for _, called in profile.calls}
    title = f"{sum(moves.values())} moves between {len(modules)} modules in {sum(profile.calls.values())} calls"
    table = Table("from", "to", "moves", title=f"One healthy step under {options.policy}: {title}")
    for (caller, called), count in sorted(moves.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(caller, called, str(count))
    publish(table, options.markdown, f"moves: {options.policy}")


if __name__ == "__main__":
    main()
