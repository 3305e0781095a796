"""Runs that take turns: every variant's `Trainer.fit` in its own thread, a few steps at a time.

A slow second of the machine then affects all variants equally. All train the same weights with the same optimizer
state, so that ten of them fit into memory and have similar cache contents.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from overhead_models import MODELS, OPTIMIZERS, Batch, Training
from rich.progress import Progress
from torch import nn

from lightning_gradguard import GradGuard


@dataclass(frozen=True)
class Variant:
    """One row: a callback, Trainer options, and the class of the module."""

    callback: Callable[[], Any] | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    module: type[Training] = Training


@dataclass(frozen=True)
class Times:
    """Result of one variant: seconds per step, seconds of it in the forward and backward pass, bytes written, and the
    guard's incidents, of which there should be none.
    """

    seconds: list[float]
    inside: list[float]
    written: int
    found: str


class Clock(pl.Callback):
    """Seconds from the start of one batch to the start of the next; waits for its turn every `block` batches."""

    def __init__(self, block: int, timer: Callable[[], float] = time.perf_counter) -> None:
        self.block, self.timer, self.seconds, self.inside, self.over = block, timer, [], [], False
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self._batches, self._last = 0, 0.0

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if self._batches:
            self.seconds.append(self.timer() - self._last)
        if self._batches % self.block == 0:
            self.done.release()
            self.go.acquire()
        self._batches += 1
        self._last = self.timer()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self.inside.append(self.timer() - pl_module.entered)


class Repeated:
    """The same batch, `times` times."""

    def __init__(self, batch: Batch, times: int) -> None:
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Any:
        return (self.batch for _ in range(self.times))


class Run(threading.Thread):
    """`Trainer.fit` of one variant."""

    def __init__(
        self, name: str, variant: Variant, net: nn.Module, batch: Batch, optimizer: Any, steps: int, clock: Clock
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.variant, self.clock, self.steps = variant, clock, steps
        self.module, self.data = variant.module(net, optimizer), Repeated(batch, steps)
        self.module.timer = clock.timer
        self.threads = torch.get_num_threads()
        self.times: Times | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            torch.set_num_threads(self.threads)  # the number is per thread
            self.times = self.fit()
        except BaseException as error:
            self.error = error
        finally:
            self.clock.over = True
            self.clock.done.release()

    def fit(self) -> Times:
        callback = self.variant.callback() if self.variant.callback is not None else None
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_steps=self.steps, max_epochs=1, accelerator="cpu", devices=1, default_root_dir=folder,
                callbacks=[self.clock, *([callback] if callback is not None else [])],
                logger=pl.loggers.TensorBoardLogger(folder), enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, **self.variant.trainer,
            )  # fmt: skip
            trainer.fit(self.module, self.data)
            written = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        found = str(callback.report()) if isinstance(callback, GradGuard) and callback.incidents else ""
        return Times(self.clock.seconds, self.clock.inside[:-1], written, found)


def take_turns(
    model: str,
    optimizer: str,
    variants: dict[str, Variant],
    rounds: int,
    block: int,
    progress: Progress,
    timer: Callable[[], float],
) -> dict[str, Times]:
    """Runs `rounds` turns of `block` steps for every variant, in a new random order in each round."""
    torch.manual_seed(0)
    net, batch = MODELS[model]()
    state: defaultdict[Any, Any] = defaultdict(dict)

    def shared(params: Any) -> torch.optim.Optimizer:
        made = OPTIMIZERS[optimizer](params)
        made.state = state
        return made

    runs = [
        Run(name, variant, net, batch, shared, rounds * block + 1, Clock(block, timer))
        for name, variant in variants.items()
    ]
    for run in runs:  # until their first batch
        run.start()
        run.clock.done.acquire()
    order = random.Random(0)
    for _ in progress.track(range(rounds + 1), description=f"{model}, {optimizer}"):  # the last round finishes the runs
        for run in order.sample(runs, len(runs)):
            if not run.clock.over:
                run.clock.go.release()
                run.clock.done.acquire()
    for run in runs:
        run.join()
        if run.error is not None:
            raise RuntimeError(f"{run.name} failed on {model}") from run.error
    return {run.name: run.times for run in runs if run.times is not None}
