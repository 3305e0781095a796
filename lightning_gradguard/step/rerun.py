"""ACT: `training_step` called again without a trace: to measure weights or a batch, and to train in an experiment."""

from __future__ import annotations

import copy
import inspect
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.layers import clean_name
from lightning_gradguard.findings import StepReport
from lightning_gradguard.modules.first_nonfinite import FirstNonFinite
from lightning_gradguard.step.lr_factor import set_lr
from lightning_gradguard.step.reachable import reachable_tensors
from lightning_gradguard.tensors.copies import optimizer_params
from lightning_gradguard.tensors.processes import ProcessGroupInfo

#: Plain attributes of modules that a step may change in place; they are put back as they were.
CONTAINERS = (list, dict, set, deque)
#: What a module logs with; silenced during a second call.
LOGGING = ("log", "log_dict")
#: Batches that are kept to be measured again. Chosen.
RECENT = 4
#: Bytes of tensors outside the optimizer, such as a teacher's weights, that are put back after a second call. Chosen.
MOST_OTHERS = 256 * 2**20

#: A batch with its index in the epoch.
Indexed = tuple[Any, int]


@dataclass(frozen=True, eq=False)
class KeptStep:
    """A step of the run that an experiment can take again.

    Args:
        batches: Its batches, one for each backward pass.
        lrs: The learning rate of every parameter group, as the user's schedule had it.
        loss: The loss that the run had; inf where it was not finite.
        number: Which step of the run it is.
    """

    batches: tuple[Indexed, ...]
    lrs: tuple[float, ...]
    loss: float
    number: int = 0

    @property
    def samples(self) -> int:
        """Samples in its batches: the length of their longest tensors."""
        return sum(max((len(t) for t in tensors_of(batch) if t.ndim), default=1) for batch, _ in self.batches)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors in its batches."""
        return sum(t.nbytes for batch, _ in self.batches for t in tensors_of(batch))


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
        self._recent: deque[Indexed] = deque(maxlen=RECENT)
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
        (then,), now = self._rerun.processes.mean([float(loss) * divisor]), self._rerun.loss(batch, batch_idx)
        return (then, now) if now is not None else None

    def losses(self) -> list[float]:
        """Losses of the last batches with the present weights; none where one cannot be measured again."""
        losses = [self._rerun.loss(batch, batch_idx) for batch, batch_idx in self._recent]
        known = [loss for loss in losses if loss is not None]
        return known if len(known) == len(losses) else []


class Rerun:
    """Calls `training_step` of a module with one optimizer again and puts back what it changes.

    Random generators of Python, numpy and torch, buffers, metrics, plain attributes of modules, and tensors that the
    module can reach are put back, and `self.log` is silenced. What a step writes elsewhere (files, a logger's
    `experiment`, the batch itself) is not.

    Several processes with whole replicas take the same steps, each with its own batches: losses and gradients are
    averaged, so that all of them come to the same verdict. What fails in one of them fails in all.

    Args:
        trainer: The Trainer.
        module: The module in training.
        logged: Returns the metrics behind `self.log`.
        processes: Those that train together; this one alone by default.

    Attributes:
        step_taken: Called after each step that is taken again.
    """

    def __init__(
        self, trainer: Any, module: Any, logged: Callable[[], Any], processes: ProcessGroupInfo | None = None
    ) -> None:
        self.trainer, self.module = trainer, module
        self.processes = processes if processes is not None else ProcessGroupInfo()
        self.optimizer: Optimizer = trainer.optimizers[0]
        self.step_taken: Callable[[], Any] = do_nothing
        self._state = ForwardState(module, logged)
        self._takes_index = len(inspect.signature(module.training_step).parameters) > 1

    def loss(self, batch: Any, batch_idx: int) -> float | None:
        """The loss of a batch at the present weights; None where the step returns none or fails."""
        with self.without_trace():
            try:
                loss = self._forward((batch, batch_idx))
            except Exception:  # a step that cannot be repeated tells nothing
                loss = None
        value = float(loss.detach()) if loss is not None else 0.0
        value, failed = self.processes.mean([value, loss is None])
        return None if failed else value

    def first_nonfinite(self, batch: Any, batch_idx: int) -> tuple[str, ...]:
        """The operation in which loss or gradient of a batch first is NaN or Inf, and where; empty if none is seen.

        No parameter's `grad` is touched. Code that `torch.compile` holds runs eagerly.
        """
        seen = FirstNonFinite({id(m): clean_name(name) for name, m in self.module.named_modules()})
        eager = getattr(torch.compiler, "set_stance", nullcontext)  # new in torch 2.6
        loss = None
        with self.without_trace(), torch.enable_grad(), eager("force_eager"):
            try:
                with seen:
                    loss = self._forward((batch, batch_idx))
                if loss is not None:
                    torch.autograd.grad(loss, optimizer_params(self.optimizer), allow_unused=True)
            except Exception:  # a step that cannot be repeated tells nothing more
                pass
        where = seen.of(loss)
        return next(filter(None, [where] if self.processes.alone else self.processes.from_all(where)), ())

    def losses(self, steps: Sequence[KeptStep]) -> list[float]:
        """The loss of each step at the present weights, within `without_trace`; inf where it cannot be measured."""
        with torch.no_grad():
            return self.processes.mean([fmean(map(self._known_loss, step.batches)) for step in steps])

    def _known_loss(self, batch: Indexed) -> float:
        try:
            loss = self._forward(batch)
        except Exception:  # ends an arm, not the run
            return math.inf
        return math.inf if loss is None or not torch.isfinite(loss) else float(loss)

    def take_step(self, step: KeptStep, ready: Callable[[], None]) -> float:
        """Takes a step of the run again, within `without_trace`; its loss, inf when it could not be taken.

        Args:
            step: The step.
            ready: Called when the gradients are there.
        """
        loss, optimizer = math.inf, self.optimizer

        def closure() -> float:
            nonlocal loss
            optimizer.zero_grad()
            set_lrs(optimizer, step.lrs)
            (now,) = self.processes.mean([self._backward(step.batches)])
            loss = now if loss == math.inf else loss  # LBFGS evaluates it again
            if not math.isfinite(now):
                raise Diverged
            self.processes.average_gradients(optimizer_params(optimizer))
            if not finite_gradients(optimizer):
                raise Diverged
            self.module.configure_gradient_clipping(
                optimizer, self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm
            )
            set_lrs(optimizer, step.lrs)  # `training_step` may have set that of the run's present step
            ready()
            return loss

        try:
            optimizer.step(closure)
        except Exception:  # ends an arm, not the run
            return math.inf
        finally:
            self.step_taken()
        return loss

    def _backward(self, batches: Sequence[Indexed]) -> float:
        """The mean loss of a step's batches, whose gradients are added up; inf where one fails in this process."""
        losses = []
        try:
            for batch in batches:
                loss = self._forward(batch)
                if loss is None:
                    return math.inf
                (loss / len(batches)).backward()
                losses.append(float(loss.detach()))
        except Exception:  # the other processes have to hear of it
            return math.inf
        return fmean(losses)

    def _forward(self, batch: Indexed) -> Tensor | None:
        """The loss of a batch. DDP's wrapper, which would wait for the other processes in `backward`, is passed by."""
        with self.trainer.precision_plugin.train_step_context():
            output = self.module.training_step(*batch[: 1 + self._takes_index])
        loss = output.get("loss") if isinstance(output, dict) else output
        return loss if isinstance(loss, Tensor) else None

    def in_all(self, steps: Sequence[KeptStep]) -> list[KeptStep]:
        """The steps that all processes have kept."""
        if self.processes.alone:
            return list(steps)
        numbers = self.processes.from_all([step.number for step in steps])
        common = set(numbers[0]).intersection(*numbers[1:])
        return [step for step in steps if step.number in common]

    def equalize(self) -> None:
        """Gives all processes the weights and buffers of the first: random initial weights differ between them."""
        self.processes.copy_from_first((*self.module.parameters(), *self.module.buffers()))

    @contextmanager
    def without_trace(self) -> Iterator[None]:
        """Whatever `training_step` changes within it, but for weights that an optimizer holds, is put back after it."""
        attributes = [(vars(m), remembered(vars(m))) for m in self.module.modules()]
        others = self._other_tensors()
        self._state.rescan(self.module)
        self._state.save()
        vars(self.module).update({name: silent for name in LOGGING})
        try:
            with same_generators(self.trainer.strategy.root_device):
                yield
        finally:
            for present, before in attributes:
                put_back(present, before)
            with torch.no_grad():
                for tensor, value in others:
                    tensor.copy_(value)
            self._state.restore()

    def _other_tensors(self) -> list[tuple[Tensor, Tensor]]:
        """Tensors that no optimizer changes, with copies: a step may change them by hand, as a teacher's weights.

        Small ones first, as many as `MOST_OTHERS` allows.
        """
        held = {id(p) for optimizer in self.trainer.optimizers for p in optimizer_params(optimizer) if p.requires_grad}
        held |= {id(buffer) for buffer in self.module.buffers()}
        others = (t for t in reachable_tensors(self.module) if id(t) not in held and can_change(t))
        room, kept = MOST_OTHERS, []
        for tensor in sorted(others, key=lambda t: t.nbytes):
            room -= tensor.nbytes
            if room < 0:
                break
            kept.append((tensor, tensor.detach().clone()))
        return kept


def set_lrs(optimizer: Optimizer, lrs: Sequence[float]) -> None:
    """Sets the learning rate of every parameter group that has one."""
    for group, lr in zip((g for g in optimizer.param_groups if "lr" in g), lrs, strict=True):
        set_lr(group, lr)


def can_change(tensor: Tensor) -> bool:
    """Whether a tensor is one of numbers that a step can change in place: no part of a graph, and dense."""
    return tensor.is_leaf and not tensor.is_inference() and tensor.layout == torch.strided and not tensor.is_meta


class Diverged(Exception):
    """Leaves an optimizer's `step` whose loss or gradients are not finite."""


def finite_gradients(optimizer: Optimizer) -> bool:
    """Whether all gradients of an optimizer's parameters are finite."""
    gradients = [p.grad for p in optimizer_params(optimizer) if p.grad is not None]
    return all(bool(torch.isfinite(g.coalesce().values() if g.is_sparse else g).all()) for g in gradients)


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Every tensor in a batch of nested containers.

    Example:
        >>> [t.shape for t in tensors_of({"x": torch.zeros(2, 3), "y": [torch.zeros(2)]})]
        [torch.Size([2, 3]), torch.Size([2])]
    """
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, dict):
        for item in batch.values():
            yield from tensors_of(item)
    elif isinstance(batch, (list, tuple)):
        for item in batch:
            yield from tensors_of(item)
    elif hasattr(batch, "__dict__"):
        yield from tensors_of(vars(batch))


def do_nothing() -> None:
    """Nobody follows the steps."""


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


@contextmanager
def same_generators(device: torch.device) -> Iterator[None]:
    """The random generators of Python, numpy and torch, on the host and on a device, are as before after it.

    Lightning's `isolate_rng` knows no accelerator but CUDA.
    """
    python, numpy = random.getstate(), np.random.get_state()
    accelerator = {"devices": [device], "device_type": device.type} if device.type != "cpu" else {"devices": []}
    try:
        with torch.random.fork_rng(**accelerator):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
