"""ACT: the one mutable handle through which remedies touch a run, in plain torch.

`PendingStep` is an optimizer step that is about to happen. Behind it stand four small helpers: `LRScale` (a factor on
the learning rate that no scheduler sees), `Snapshots` (weights to return to), and `BatchState` (what the forward pass
of the current batch has already changed: buffers and metrics).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.stats import GradStats, clean_name


class LRScale:
    """A factor on an optimizer's learning rate that is only there while the optimizer steps.

    The schedule, checkpoints and learning-rate monitors see the user's value: the factor is multiplied in by a
    step-pre-hook and the old values are put back by a step-post-hook. After `hold` healthy steps the factor grows back
    to 1, tenfold in `ramp` steps; a reduction after that began doubles the hold.

    Example:
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scale = LRScale(sgd)
        >>> scale.reduce(0.1, floor=1e-4)
        0.1
        >>> scale.effective_lr(), sgd.param_groups[0]["lr"]
        (0.1, 1.0)
    """

    def __init__(self, optimizer: Optimizer, hold: int = 200, ramp: int = 100) -> None:
        self.optimizer, self.ramp = optimizer, ramp
        self.factor, self.hold, self.healthy = 1.0, hold, 0
        self._inside: list[tuple[dict[str, Any], Any]] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._enter),
            optimizer.register_step_post_hook(self._leave),
        ]

    def _enter(self, *_: Any) -> None:
        self.restore()
        if self.factor != 1.0:
            self._inside = [(group, copy.deepcopy(group["lr"])) for group in self.optimizer.param_groups]
            self._apply()

    def _leave(self, *_: Any) -> None:
        self.restore()

    def _apply(self) -> None:
        for group, lr in self._inside:
            set_lr(group, lr * self.factor)

    def restore(self) -> None:
        """Puts the user's learning rates back; needed when a step was left by an exception."""
        for group, lr in self._inside:
            set_lr(group, lr)
        self._inside = []

    def reduce(self, factor: float, floor: float) -> float:
        """Multiplies the factor by `factor`, not below `floor`, from the present step on; returns the new factor."""
        self.hold *= 2 if self.healthy > self.hold else 1
        self.factor, self.healthy = max(self.factor * factor, floor), 0
        self._apply()
        return self.factor

    def recover(self) -> None:
        """Counts one healthy step; past the hold the factor grows towards 1."""
        if self.factor < 1.0:
            self.healthy += 1
            if self.healthy > self.hold:
                self.factor = min(1.0, self.factor * 10 ** (1 / self.ramp))

    def effective_lr(self) -> float:
        """The largest learning rate of the next step."""
        user = {id(group): lr for group, lr in self._inside}
        rates = [float(user.get(id(g), g["lr"])) for g in self.optimizer.param_groups if "lr" in g]
        return self.factor * max(rates, default=float("nan"))

    def state_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return {"factor": self.factor, "hold": self.hold, "healthy": self.healthy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.factor, self.hold, self.healthy = float(state["factor"]), int(state["hold"]), int(state["healthy"])

    def close(self) -> None:
        """Puts the learning rates back and removes the hooks."""
        self.restore()
        for handle in self._handles:
            handle.remove()


def set_lr(group: dict[str, Any], lr: Any) -> None:
    """Sets a group's learning rate; one that is a tensor (capturable, compiled) is changed in place."""
    if isinstance(group["lr"], Tensor):
        group["lr"].copy_(lr)
    else:
        group["lr"] = lr


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Copies of everything a rollback puts back, shard-local under sharding.

    Args:
        step: The optimizer step before which it was taken, with a finite loss measured on these very weights.
        params: Copies of the parameters.
        buffers: Copies of the module's buffers, by name.
        optimizer: Copies of the optimizer's state, by index of the parameter.
        scaler: The GradScaler's state.
        memory: What else belongs to that moment, e.g. the detectors' states.
    """

    step: int
    params: tuple[Tensor, ...]
    buffers: dict[str, Tensor]
    optimizer: dict[int, dict[str, Any]]
    scaler: dict[str, Any]
    memory: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        state = [v for entry in self.optimizer.values() for v in entry.values() if isinstance(v, Tensor)]
        return sum(t.nbytes for t in (*self.params, *self.buffers.values(), *state))


class Snapshots:
    """A ring of the last `keep` snapshots of one optimizer's parameters, in host memory.

    Args:
        module: Whose buffers are kept too.
        optimizer: Whose parameters and state are kept.
        keep: How many; at least 1.
        scaler: A GradScaler, when there is one.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer, keep: int = 2, scaler: Any = None) -> None:
        self.module, self.optimizer, self.keep, self.scaler = module, optimizer, keep, scaler
        self.ring: list[Snapshot] = []
        self.tries = 0

    @torch.no_grad()
    def take(self, step: int, memory: Any = None) -> Snapshot:
        """Copies the present state; the oldest snapshot goes when there are too many."""
        params = owned_params(self.optimizer)
        snapshot = Snapshot(
            step,
            tuple(to_host(p) for p in params),
            {name: to_host(b) for name, b in self.module.named_buffers()},
            {i: copied(self.optimizer.state[p], to_host) for i, p in enumerate(params) if p in self.optimizer.state},
            copy.deepcopy(self.scaler.state_dict()) if self.scaler is not None else {},
            memory,
        )
        self.ring, self.tries = [*self.ring, snapshot][-self.keep :], 0
        return snapshot

    @torch.no_grad()
    def restore(self) -> Snapshot | None:
        """Puts the newest snapshot back in place; None when there is none.

        One that was restored three times without a healthy one after it gives way to the next older.

        Parameter groups, schedulers and loop counters stay as they are: the user's schedule goes on.
        """
        if not self.ring:
            return None
        snapshot = self.ring[-1]
        self.tries += 1
        if self.tries >= 3 and len(self.ring) > 1:
            self.ring, self.tries = self.ring[:-1], 0
        params = owned_params(self.optimizer)
        for p, saved in zip(params, snapshot.params, strict=False):
            p.copy_(saved)
        buffers = dict(self.module.named_buffers())
        for name, saved in snapshot.buffers.items():
            if name in buffers and buffers[name].shape == saved.shape:
                buffers[name].copy_(saved)
        for i, p in enumerate(params):
            put_back(self.optimizer, p, snapshot.optimizer.get(i))
        if self.scaler is not None:
            self.scaler.load_state_dict(snapshot.scaler)
        return snapshot


def owned_params(optimizer: Optimizer) -> list[Tensor]:
    """The optimizer's parameters, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def to_host(tensor: Tensor) -> Tensor:
    """A copy in host memory, pinned when the tensor lives on a CUDA device."""
    source = tensor.detach()
    if source.device.type == "cpu":
        return source.clone()
    host = torch.empty_like(source, device="cpu", pin_memory=source.device.type == "cuda")
    return host.copy_(source)


def copied(state: Any, copy_tensor: Any) -> dict[str, Any]:
    """An optimizer's state of one parameter, tensors by `copy_tensor`, everything else deep."""
    return {k: copy_tensor(v) if isinstance(v, Tensor) else copy.deepcopy(v) for k, v in state.items()}


def put_back(optimizer: Optimizer, param: Tensor, saved: dict[str, Any] | None) -> None:
    """Makes the optimizer's state of `param` equal to `saved`, in place where it can."""
    if saved is None:
        optimizer.state.pop(param, None)
        return
    state = optimizer.state[param]
    for key in set(state) - set(saved):
        del state[key]
    for key, value in saved.items():
        present = state.get(key)
        if isinstance(value, Tensor) and isinstance(present, Tensor) and present.shape == value.shape:
            present.copy_(value)
        else:
            state[key] = value.to(param.device) if isinstance(value, Tensor) else copy.deepcopy(value)


class BatchState:
    """What the forward pass changes before anybody can judge the batch: buffers and the states of metrics.

    `save` before the batch, `restore` when its step is cancelled. A buffer that the first batch leaves alone (a mask,
    a table of positions) costs nothing afterwards; its version counter tells when that changes.

    Args:
        module: The module in training, with its torchmetrics inside.
        logged: Returns further torchmetrics, e.g. those behind `self.log`.
    """

    def __init__(self, module: nn.Module, logged: Callable[[], Iterable[Any]] = tuple) -> None:
        self.slots = [
            _Slot(clean_name(f"{path}.{key}".lstrip(".")), owner._buffers, key)
            for path, owner in module.named_modules()
            for key in owner._buffers
        ]
        self._own = [m for m in module.modules() if is_metric(m)]
        self._logged = logged
        self._metrics: list[tuple[Any, dict[str, Any], int, Any]] = []

    @property
    def moving(self) -> list[tuple[str, Tensor]]:
        """The float buffers that training changes, with their names."""
        return [(s.name, s.tensor) for s in self.slots if s.moves and s.tensor.is_floating_point() and s.tensor.numel()]

    @torch.no_grad()
    def save(self) -> None:
        """Remembers buffers and metrics as they are now."""
        for slot in self.slots:
            slot.save()
        self._metrics = [
            (m, {key: mark(getattr(m, key)) for key in m._defaults}, m._update_count, m._computed)
            for m in self._all_metrics()
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Puts buffers and metrics back to where `save` found them."""
        for slot in self.slots:
            slot.restore()
        saved = {id(entry[0]) for entry in self._metrics}
        for metric, states, count, computed in self._metrics:
            for key, kept in states.items():
                setattr(metric, key, unmark(getattr(metric, key), kept))
            metric._update_count, metric._computed = count, computed
        for metric in self._all_metrics():
            if id(metric) not in saved:  # born in the cancelled batch
                metric.reset()

    def _all_metrics(self) -> list[Any]:
        return [*self._own, *(m for m in self._logged() if is_metric(m) and m._defaults)]


@dataclass
class _Slot:
    """One buffer: where it lives, the version last seen and a copy as of then (None for a constant)."""

    name: str
    home: dict[str, Tensor | None]
    key: str
    version: int = -1
    kept: Tensor | None = None
    moves: bool = False

    @property
    def tensor(self) -> Tensor:
        buffer = self.home.get(self.key)
        return torch.empty(0) if buffer is None or buffer.is_inference() else buffer

    def save(self) -> None:
        buffer, first = self.tensor, self.version == -1
        if buffer._version == self.version:
            self.kept = self.kept if self.moves else None
            return
        self.moves = not first
        same = self.kept is not None and self.kept.shape == buffer.shape and self.kept.device == buffer.device
        self.kept = self.kept.copy_(buffer) if same and self.kept is not None else buffer.detach().clone()
        self.version = buffer._version

    def restore(self) -> None:
        buffer = self.tensor
        if self.kept is not None and buffer._version != self.version and self.kept.shape == buffer.shape:
            buffer.copy_(self.kept)
            self.version, self.moves = buffer._version, True


def is_metric(module: Any) -> bool:
    """Whether it is a torchmetrics metric, without importing torchmetrics."""
    return hasattr(module, "_defaults") and hasattr(module, "_update_count")


def mark(state: Any) -> Any:
    """How to come back to a metric's state: a copy of a tensor, the length of a list."""
    return state.clone() if isinstance(state, Tensor) else len(state)


def unmark(state: Any, kept: Any) -> Any:
    """The state that `mark` described; in place where shapes allow, since metrics of a collection share tensors."""
    if not isinstance(kept, Tensor):
        return state[:kept]
    return state.copy_(kept) if state.shape == kept.shape and state.dtype == kept.dtype else kept


@dataclass
class PendingStep:
    """An optimizer step about to happen, and everything a remedy may do to it.

    Args:
        optimizer: The optimizer that will step.
        stats: What was measured.
        lr_scale: The optimizer's learning-rate factor.
        snapshots: Where `restore` finds its weights.
        batch: What `cancel` puts back beside the gradients.
        scaler: A GradScaler that has not yet unscaled the gradients (a fused optimizer's); None otherwise.
        damage: Whether a step was really taken since the weights were last known good; a rollback, or another
            reduction of the learning rate, is pointless while nothing has changed.
        grad_scale: What the gradients are still multiplied by (a scaler that has not unscaled them).

    Attributes:
        cancelled: The step will not happen.
        clip_coefficient: Product of all scalings of the gradients.
        restored: The snapshot that was put back, if any.
        stop_reason: Why training should end, if it should.
    """

    optimizer: Optimizer
    stats: GradStats
    lr_scale: LRScale
    snapshots: Snapshots
    batch: BatchState
    scaler: Any = None
    damage: bool = True
    grad_scale: float = 1.0
    cancelled: bool = field(default=False, init=False)
    clip_coefficient: float = field(default=1.0, init=False)
    restored: Snapshot | None = field(default=None, init=False)
    stop_reason: str = field(default="", init=False)

    @property
    def grads(self) -> list[Tensor]:
        """The gradients of this optimizer's parameters that have one."""
        return [p.grad for p in owned_params(self.optimizer) if p.grad is not None]

    def cancel(self) -> None:
        """Makes the step an exact no-op: weights, optimizer state, buffers and metrics stay as before the batch."""
        if self.cancelled:
            return
        self.cancelled = True
        if self.scaler is not None:
            # A fused optimizer under a GradScaler needs a recorded inf check; the scaler then skips the step itself.
            for grad in self.grads[:1]:
                grad.fill_(float("inf"))
        else:
            for p in owned_params(self.optimizer):
                p.grad = None
        self.batch.restore()

    @torch.no_grad()
    def scale_gradients(self, coefficient: float) -> None:
        """Multiplies every gradient by `coefficient`, in place."""
        torch._foreach_mul_(self.grads, coefficient) if self.grads else None
        self.clip_coefficient *= coefficient

    def scale_lr(self, factor: float, floor: float) -> float:
        """Multiplies the learning-rate factor, unless nothing was stepped since it was last changed."""
        return self.lr_scale.reduce(factor, floor) if self.damage else self.lr_scale.factor

    def restore(self) -> Snapshot | None:
        """Cancels the step and puts the newest snapshot back, unless the weights are still that snapshot's."""
        self.cancel()
        if self.damage:
            self.restored = self.snapshots.restore()
        return self.restored

    def stop(self, reason: str) -> None:
        """Cancels the step, puts the newest snapshot back and asks for the end of training."""
        self.restore()
        self.stop_reason = reason


def total_bytes(snapshots: Iterable[Snapshot]) -> int:
    """Bytes held by several snapshots."""
    return sum(snapshot.nbytes for snapshot in snapshots)


def human_bytes(count: int) -> str:
    """Bytes in words.

    Example:
        >>> human_bytes(3 * 2**20)
        '3.0 MiB'
    """
    size, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while size >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.1f} {units[power]}" if power else f"{count} B"


__all__: Sequence[str] = (
    "BatchState",
    "LRScale",
    "PendingStep",
    "Snapshot",
    "Snapshots",
    "human_bytes",
    "total_bytes",
)
