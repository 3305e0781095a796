"""A second call of `training_step` that leaves no trace: were the weights damaged, or is the batch bad?"""

from __future__ import annotations

import copy
import inspect
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.findings import StepReport

#: Plain attributes of modules that a step may change in place; they are put back as they were.
CONTAINERS = (list, dict, set, deque)
#: What a module logs with; silenced during a second call.
LOGGING = ("log", "log_dict")
#: Batches that are kept to be measured again. Chosen.
RECENT = 4


class RecentBatches:
    """The last batches with finite losses, to be measured again with other weights.

    Args:
        rerun: Measures them.
    """

    def __init__(self, rerun: Rerun) -> None:
        self._rerun = rerun
        self.forget()

    def forget(self) -> None:
        """Lets all batches go."""
        self._recent: deque[tuple[Any, int]] = deque(maxlen=RECENT)  # each with its index in the epoch
        # The one of the last step that was taken, if nothing was found: index, loss, and what that was divided by.
        self._healthy: tuple[Any, int, Tensor, float] | None = None

    def add(self, batch: Any, batch_idx: int, loss: Tensor, divisor: float, report: StepReport) -> None:
        """The last batch of one more step.

        Args:
            batch: The batch.
            batch_idx: Its index in the epoch.
            loss: Its loss, 0-d.
            divisor: What the loss was divided by (gradient accumulation).
            report: Of the step.
        """
        if not report.stats.clean:
            return
        self._recent.append((batch, batch_idx))
        if not report.outcome.cancelled:
            self._healthy = None if report.findings else (batch, batch_idx, loss, divisor)

    def recheck(self) -> tuple[float, float] | None:
        """The loss of the last healthy batch when it was new and now; None where it cannot be measured again."""
        if self._healthy is None:
            return None
        batch, batch_idx, loss, divisor = self._healthy
        now = self._rerun.loss(batch, batch_idx)
        return (float(loss) * divisor, now) if now is not None else None

    def loss(self) -> float | None:
        """Mean loss of the last batches with the present weights; None where it cannot be measured again."""
        losses = [self._rerun.loss(batch, batch_idx) for batch, batch_idx in self._recent]
        known = [loss for loss in losses if loss is not None]
        return fmean(known) if known else None


class Rerun:
    """Calls `training_step` again and puts back what it changes.

    Random generators of Python, numpy and torch, buffers, metrics and plain attributes of modules are put back, and
    `self.log` is silenced. What a step writes elsewhere (files, a logger's `experiment`, the batch itself) is not.

    Args:
        trainer: The Trainer.
        module: The module in training.
        logged: Returns the metrics behind `self.log`.
    """

    def __init__(self, trainer: Any, module: Any, logged: Callable[[], Any]) -> None:
        self.trainer, self.module = trainer, module
        self._state = ForwardState(module, logged)
        self._takes_index = len(inspect.signature(module.training_step).parameters) > 1

    def loss(self, batch: Any, batch_idx: int) -> float | None:
        """The loss of a batch at the present weights; None where the step returns none or fails."""
        with self._without_trace():
            try:
                output = self.trainer.strategy.training_step(batch, *([batch_idx] if self._takes_index else []))
            except Exception:  # a step that cannot be repeated tells nothing
                return None
        loss = output.get("loss") if isinstance(output, dict) else output
        return float(loss.detach()) if isinstance(loss, Tensor) else None

    @contextmanager
    def _without_trace(self) -> Iterator[None]:
        generators, python, numpy = fork_generators(self.trainer), random.getstate(), np.random.get_state()
        attributes = [(vars(m), remembered(vars(m))) for m in self.module.modules()]
        self._state.rescan(self.module)
        self._state.save()
        vars(self.module).update({name: silent for name in LOGGING})
        try:
            with generators:
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for present, before in attributes:
                put_back(present, before)
            self._state.restore()


def silent(*_: Any, **__: Any) -> None:
    """Takes the place of `self.log`."""


def remembered(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Attributes with copies of those that may be changed in place."""
    kept = {}
    for name, value in attributes.items():
        if name in ("_parameters", "_buffers", "_modules"):
            continue
        plain = isinstance(value, CONTAINERS)
        kept[name] = value, copy.copy(value) if plain else value.clone() if isinstance(value, Tensor) else None
    return kept


@torch.no_grad()
def put_back(attributes: dict[str, Any], before: dict[str, tuple[Any, Any]]) -> None:
    """The reverse of `remembered`: the same objects with the same contents.

    Example:
        >>> attributes = {"count": 1, "seen": [1, 2]}
        >>> before = remembered(attributes)
        >>> attributes["seen"].append(3)
        >>> attributes.update(count=2, other=0)
        >>> put_back(attributes, before)
        >>> attributes
        {'count': 1, 'seen': [1, 2]}
    """
    for name in attributes.keys() - before.keys() - {"_parameters", "_buffers", "_modules"}:
        del attributes[name]
    for name, (value, kept) in before.items():
        attributes[name] = value
        if isinstance(value, Tensor):
            value.copy_(kept)
        elif isinstance(value, list):
            value[:] = kept
        elif isinstance(value, deque):
            value.clear()
            value.extend(kept)
        elif isinstance(value, (dict, set)):
            value.clear()
            value.update(kept)


def fork_generators(trainer: Any) -> Any:
    """A context after which torch's random generators, on the host and on the Trainer's device, are as before.

    Lightning's `isolate_rng` knows no accelerator but CUDA.
    """
    device = trainer.strategy.root_device
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)
