"""The run of `soak.py`, as a process that may be killed at any moment and resumes from its newest checkpoint.

python benchmarks/soak_run.py FOLDER --steps N [--faults] [--kill-at STEP]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import lightning.pytorch as pl
import torch
from chaos import data
from chaos_faults import MID, TRANSIENT, Fault, Injector
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from recipes.base import Learner, quiet
from recipes.nets import adam, classify, mlp
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard

#: Steps with one fault, and between two checkpoints.
EVERY, CHECKPOINT = 200, 500
#: Samples to train on, and of one batch.
TRAINING, BATCH = 1250, 25
#: Times at which memory is noted.
NOTES = 40
MEMORY, END = "memory.jsonl", "end.json"

#: Faults in the order in which they strike, one after another.
FAULTS = [
    TRANSIENT[name]
    for name in (
        "inputs NaN at 110",
        "gradients x10000",
        "weights with one NaN at 110",
        "first moment with one NaN",
        "learning rate x1000 for one step",
        "inputs x1e4 at 110",
        "gradients NaN at 110",
        "weights with the top exponent bit flipped",
        "second moment negative",
        "learning rate xnan for one step",
        "inputs Inf at 110",
        "gradients Inf",
        "weights zero, all",
        "first moment 1e6",
        "inputs NaN in one sample",
        "gradients NaN in one element",
        "weights NaN",
        "second moment zero",
        "learning rate xinf for one step",
        "inputs NaN for 5 at 110",
        "gradients x1e+20",
        "weights drawn anew, all",
        "first moment NaN",
        "inputs x1e4 in one sample",
        "gradients x1e+37",
        "weights with one Inf",
        "second moment NaN",
        "learning rate negative for 3",
        "inputs x1e38",
        "gradients x1e6 in a bias",
        "weights with one 1e6",
        "second moment Inf",
        "inputs x1e4 for 10",
        "gradients NaN in the first parameter",
        "weights of the last layer with a bit flipped",
        "first moment with a bit flipped",
    )
]


def strikes(block: int) -> int:
    """The step at which the fault of a block of `EVERY` steps begins; none goes on into the next block."""
    return EVERY * block + Random(block).randrange(EVERY - 20)


class Series(Injector):
    """One fault in every block of `EVERY` steps."""

    def __init__(self) -> None:
        super().__init__(Fault())

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        block = trainer.global_step // EVERY
        self.fault = FAULTS[block % len(FAULTS)]
        self.step = trainer.global_step - strikes(block) + MID - 1  # the fault's own clock
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)


class Order:
    """Batches that depend on the step alone: Lightning restarts a loader when it resumes within an epoch."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self.trainer.global_step):
            epoch, place = divmod(step * BATCH, TRAINING)
            order = torch.randperm(TRAINING, generator=torch.Generator().manual_seed(epoch))
            yield order[place : place + BATCH].tolist()


class Watch(pl.Callback):
    """Notes the memory of the process, and kills it."""

    def __init__(self, folder: Path, steps: int, kill_at: int) -> None:
        self.file, self.kill_at, self.pause = folder / MEMORY, kill_at, max(steps // NOTES, 1)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self.kill_at:  # by a thread, so that it strikes anywhere in this step or the next ones
            threading.Timer(Random(step).uniform(0, 0.01), os.kill, (os.getpid(), signal.SIGKILL)).start()
        if step % self.pause == 0:
            with self.file.open("a") as file:
                file.write(f"{json.dumps([step, resident()])}\n")


def resident() -> float:
    """Memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def train(folder: Path, steps: int, faults: bool, kill_at: int) -> None:
    """Trains from the newest checkpoint on, and writes what has come of it."""
    quiet()
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    x, y = data()
    seen, guard = TensorDataset(x[:TRAINING], y[:TRAINING]), GradGuard("protect")
    module = Learner(mlp(64, 48, 32, 10), classify, adam(min(3e-3, 10 / steps), weight_decay=0.01))
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=CHECKPOINT)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, logger=TensorBoardLogger(folder, "", ""),
        callbacks=[*([Series()] if faults else []), guard, keep, Watch(folder, steps, kill_at)],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    found = max(folder.glob("*.ckpt"), key=os.path.getmtime, default=None)
    trainer.fit(module, DataLoader(seen, None, sampler=Order(trainer)), ckpt_path=found)
    end = {
        **judged(module, x[TRAINING:], y[TRAINING:]),
        "outcome": guard.report().outcome,
        "story": str(guard.report()),
    }
    (folder / END).write_text(json.dumps(end))


def judged(module: Learner, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Accuracy and loss on validation data, and a digest of the weights."""
    with torch.no_grad():
        scores, loss = module.net.eval()(x), classify(module.net, x, y)
    weights = b"".join(value.numpy().tobytes() for value in module.state_dict().values())
    accuracy = float((scores.argmax(1) == y).float().mean())
    return {"accuracy": accuracy, "loss": float(loss), "weights": hashlib.sha256(weights).hexdigest()}


def main() -> None:
    """One life of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--kill-at", type=int, default=-1)
    options = parser.parse_args()
    train(options.folder, options.steps, options.faults, options.kill_at)


if __name__ == "__main__":
    main()
