"""ACT: copies of a healthy run in host memory, and the way back to them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.shards import like, local


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
            local(p).copy_(saved)
        buffers = dict(self.module.named_buffers())
        for name, saved in snapshot.buffers.items():
            if name in buffers and local(buffers[name]).shape == saved.shape:
                local(buffers[name]).copy_(saved)
        for i, p in enumerate(params):
            put_back(self.optimizer, p, snapshot.optimizer.get(i))
        if self.scaler is not None:
            self.scaler.load_state_dict(snapshot.scaler)
        return snapshot


def owned_params(optimizer: Optimizer) -> list[Tensor]:
    """The optimizer's parameters, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def to_host(tensor: Tensor) -> Tensor:
    """A copy in host memory (of the local piece, under sharding), pinned when the tensor lives on a CUDA device."""
    source = local(tensor.detach())
    if source.device.type == "cpu":
        return source.clone()
    host = torch.empty_like(source, device="cpu", pin_memory=source.device.type == "cuda")
    return host.copy_(source)


def copied(state: dict[str, Any], copy_tensor: Callable[[Tensor], Tensor]) -> dict[str, Any]:
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
        if isinstance(value, Tensor) and isinstance(present, Tensor) and local(present).shape == value.shape:
            local(present).copy_(value)
        else:
            state[key] = like(value, param) if isinstance(value, Tensor) else copy.deepcopy(value)


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
