"""Recipes, and the function with which every benchmark runs them."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

#: Optimizer steps of one run.
STEPS = 1000


@dataclass
class Program:
    """A training program, ready to run; `trainer` holds its Trainer options."""

    module: pl.LightningModule
    batches: DataLoader[Any]
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: Sequence[pl.Callback] = ()


Recipe = Callable[[], Program]
#: Every recipe by name, in the order of the files.
RECIPES: dict[str, Recipe] = {}


def recipe(build: Recipe) -> Recipe:
    """Registers a fault-free training program under the name of its function."""
    RECIPES[build.__name__] = build
    return build


class Learner(pl.LightningModule):
    """A LightningModule with one loss, `loss(net, *batch)`, and one optimizer.

    Args:
        net: The model.
        loss: Returns a scalar for the model and a batch.
        optimizer: Creates the optimizer for the parameters.
        schedule: Creates a learning-rate schedule for the optimizer, updated at every step.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[..., Tensor],
        optimizer: Callable[[Any], Optimizer],
        schedule: Callable[[Optimizer], Any] | None = None,
    ) -> None:
        super().__init__()
        self.net, self._loss, self._optimizer, self._schedule = net, loss, optimizer, schedule

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return self._loss(self.net, *batch)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer([p for p in self.net.parameters() if p.requires_grad])
        if self._schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._schedule(optimizer), "interval": "step"}}


def batches(*tensors: Tensor, size: int = 32) -> DataLoader[Any]:
    """Shuffled batches; each is a copy, so that faults may modify it."""
    data = TensorDataset(*tensors)
    order = RandomSampler(data, generator=torch.Generator().manual_seed(torch.initial_seed()))
    return DataLoader(data, batch_size=None, sampler=BatchSampler(order, size, drop_last=True))


@dataclass(frozen=True)
class Outcome:
    """Result of a run: `error` is the name of an exception that left the Trainer, `seconds` is processor time."""

    module: pl.LightningModule
    state: dict[str, Tensor]
    steps: int
    error: str
    seconds: float

    @property
    def finite(self) -> bool:
        """Whether every weight and buffer is finite."""
        return all(bool(t.isfinite().all()) for t in self.state.values())


def run(build: Recipe, seed: int, steps: int = STEPS, callbacks: Sequence[Any] = (), **trainer: Any) -> Outcome:
    """Trains a recipe; the same seed gives the same run, bit for bit."""
    quiet()
    pl.seed_everything(seed, verbose=False)
    program = build()
    with tempfile.TemporaryDirectory() as home:
        options = {
            "accelerator": "cpu", "devices": 1, "max_steps": steps, "max_epochs": -1, "logger": False,
            "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
            "num_sanity_val_steps": 0, "default_root_dir": home, **program.trainer, **trainer,
        }  # fmt: skip
        fitter, error = pl.Trainer(callbacks=[*program.callbacks, *callbacks], **options), ""
        began = time.process_time()
        pl.seed_everything(seed + 1000, verbose=False)
        try:
            fitter.fit(program.module, program.batches)
        except Exception as raised:  # some tools stop by an exception, others crash: both are results
            error = type(raised).__name__
    state = {name: value.detach().clone() for name, value in program.module.state_dict().items()}
    return Outcome(program.module, state, fitter.global_step, error, time.process_time() - began)


def same(a: Outcome, b: Outcome) -> bool:
    """Whether the final weights and buffers of two runs are bit-identical."""
    return a.state.keys() == b.state.keys() and all(torch.equal(a.state[name], b.state[name]) for name in a.state)


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """A digest of every bit of a model's weights and buffers."""
    parts = (value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for value in state.values())
    return sha256(b"".join(parts)).hexdigest()


def quiet() -> None:
    """Silences warnings and Lightning's log messages."""
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "lightning_gradguard"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
