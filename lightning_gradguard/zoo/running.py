"""Trains a case, broken or with a cure, with or without GradGuard."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_gradguard.callback import GradGuard
from lightning_gradguard.collect.layers import ParamTable
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import Incident
from lightning_gradguard.fixes import Changes
from lightning_gradguard.tensors.norms import read_norms
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Program
from lightning_gradguard.zoo.learner import Loss
from lightning_gradguard.zoo.registry import get_case

BROKEN = "broken"
PolicyName = Literal["none", "monitor", "protect", "repair"]


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, from which a symptom is measured.

    Args:
        stats: Gradient statistics of every step, measured after the backward pass.
        initial: The network before training.
        net: The network after training.
        inputs: Validation inputs, on the CPU.
        targets: Validation targets, on the CPU.
        loss: The loss function.
    """

    stats: list[GradStats]
    initial: nn.Module
    net: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Loss


@dataclass(frozen=True)
class Result:
    """The outcome of one run of a case.

    Args:
        case: The case's name.
        variant: `"broken"` or the cure's name.
        seed: Seed of the weights, the data and its order.
        policy: GradGuard's policy; `"none"` if it was not used.
        symptom: The value of the case's symptom.
        has_symptom: Whether this value shows the symptom.
        metric: The final metric on the validation data; NaN if it could not be computed.
        ratio: The first layer's RMS gradient divided by the last layer's, median over the steps.
        slope: Decades by which the RMS gradient grows per layer towards the output, median over the steps.
        steps: Number of optimizer steps, including skipped ones.
        seconds: Training time.
        changes: What the cure changed.
        incidents: What GradGuard reported.
    """

    case: str
    variant: str
    seed: int
    policy: str
    symptom: float
    has_symptom: bool
    metric: float
    ratio: float
    slope: float
    steps: int
    seconds: float
    changes: Changes = ()
    incidents: tuple[Incident, ...] = ()

    @property
    def sick(self) -> bool:
        """Deprecated: `has_symptom`."""
        warnings.warn("`zoo.Result.sick` has been renamed to `has_symptom`.", DeprecationWarning, stacklevel=2)
        return self.has_symptom


class Recorder(pl.Callback):
    """Keeps the gradient statistics of every step, measured after the backward pass."""

    def __init__(self) -> None:
        self.stats: list[GradStats] = []
        self._table: ParamTable | None = None
        self._loss: Tensor | None = None

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._loss = loss.detach().float() / (scaler.get_scale() if scaler else 1.0)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._table is None:
            owned = [p for group in optimizer.param_groups for p in group["params"]]
            self._table = ParamTable(pl_module.named_parameters(), owned)
        norms, extra = read_norms([p.grad for p in self._table.params], [] if self._loss is None else [self._loss])
        loss = float(extra[0]) if len(extra) else None
        rows = self._table.per_layer(norms)
        self.stats.append(GradStats(len(self.stats), self._table.layers, rows, loss=loss))


def run_case(
    case: Case | str,
    cure: str | None = None,
    policy: PolicyName = "monitor",
    accelerator: str = "auto",
    devices: int = 1,
    logdir: str | Path | None = None,
    seed: int = 0,
    max_steps: int | None = None,
    progress: bool = False,
) -> Result:
    """Trains one case, broken or with a cure, and measures the outcome.

    Args:
        case: A case, or its name.
        cure: Name of one of its cures; None trains the broken program.
        policy: GradGuard's policy; `none` trains without GradGuard.
        accelerator: As in Lightning's Trainer: `auto`, `cpu`, `gpu`, `mps`, ...
        devices: Number of devices.
        logdir: Directory for TensorBoard's files; None writes nothing.
        seed: Seed of the weights, the data and its order.
        max_steps: Number of optimizer steps; None for the case's own number.
        progress: Whether to show Lightning's progress bar.

    Raises:
        KeyError: If there is no such case or cure.

    Example:
        >>> from lightning_gradguard import zoo
        >>> zoo.run_case("deep_sigmoid", accelerator="cpu", max_steps=20).has_symptom
        True
    """
    case = get_case(case) if isinstance(case, str) else case
    if cure is not None and cure not in case.cures:
        raise KeyError(f"The zoo case {case.name!r} has no cure {cure!r}. Its cures are: {', '.join(case.cures)}")
    with _isolated(seed):
        program = case.build(seed)
        changes = case.cures[cure].apply(program) if cure else ()
        guard = None if policy == "none" else GradGuard(policy=policy, record=logdir is not None)
        run, metric, seconds = _trained(program, case, guard, accelerator, devices, logdir, cure, max_steps, progress)
        value = case.symptom.measure(run)
    return Result(
        case.name, cure or BROKEN, seed, policy, value, case.symptom.is_present(value), metric,
        measures.first_last_ratio(run), measures.depth_slope(run), len(run.stats), seconds, changes,
        guard.report().incidents if guard else (),
    )  # fmt: skip


def _trained(
    program: Program, case: Case, guard: GradGuard | None, accelerator: str, devices: int,
    logdir: str | Path | None, cure: str | None, max_steps: int | None, progress: bool,
) -> tuple[Run, float, float]:  # fmt: skip
    recorder, module = Recorder(), program.module
    initial = copy.deepcopy(module.net)
    with tempfile.TemporaryDirectory() as root:
        trainer = pl.Trainer(
            max_steps=max_steps or program.max_steps, max_epochs=-1, accelerator=accelerator, devices=devices,
            logger=TensorBoardLogger(logdir, name=case.name, version=cure or BROKEN) if logdir else False,
            callbacks=[recorder, *([guard] if guard else [])], log_every_n_steps=1, num_sanity_val_steps=0,
            limit_val_batches=0, enable_checkpointing=False, enable_progress_bar=progress, enable_model_summary=False,
            default_root_dir=root, **program.trainer,
        )  # fmt: skip
        start = time.perf_counter()
        trainer.fit(module, program.train)
        seconds = time.perf_counter() - start
        trainer.limit_val_batches = 1.0
        trainer.validate(module, program.valid, verbose=False)
    metric = float(trainer.callback_metrics.get("metric", torch.tensor(math.nan)))
    inputs, targets = next(iter(program.valid))
    module.cpu()
    return Run(recorder.stats, initial, module.net, inputs, targets, module.loss), metric, seconds


@contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """Seeds torch, restores the caller's random state afterwards, and hides Lightning's warnings and banners."""
    quiet = logging.root.manager.disable
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        logging.disable(logging.INFO)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            logging.disable(quiet)


def compare_case(
    case: Case | str,
    policy: PolicyName = "monitor",
    accelerator: str = "auto",
    devices: int = 1,
    logdir: str | Path | None = None,
    seed: int = 0,
) -> list[Result]:
    """Trains a case broken and with every cure.

    Args:
        case: A case, or its name.
        policy: GradGuard's policy; `none` trains without GradGuard.
        accelerator: As in Lightning's Trainer: `auto`, `cpu`, `gpu`, `mps`, ...
        devices: Number of devices.
        logdir: Directory for TensorBoard's files, one run for each variant in `logdir/CASE`; None writes nothing.
        seed: Seed of the weights, the data and its order.
    """
    case = get_case(case) if isinstance(case, str) else case
    return [run_case(case, cure, policy, accelerator, devices, logdir, seed) for cure in (None, *case.cures)]
