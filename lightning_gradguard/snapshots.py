"""ACT: copies of a healthy run in host memory, and the way back to them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
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
    def tensors(self) -> list[Tensor]:
        """Every tensor held: parameters, buffers, optimizer's state."""
        state = [v for entry in self.optimizer.values() for v in entry.values() if isinstance(v, Tensor)]
        return [*self.params, *self.buffers.values(), *state]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.nbytes for t in self.tensors)


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
        """Copies the present state; when there are too many, into the memory of the oldest snapshot, which goes."""
        params = owned_params(self.optimizer)
        live = Snapshot(
            step,
            tuple(local(p.detach()) for p in params),
            {name: local(b) for name, b in self.module.named_buffers()},
            {i: local_state(self.optimizer.state[p]) for i, p in enumerate(params) if p in self.optimizer.state},
            copy.deepcopy(self.scaler.state_dict()) if self.scaler is not None else {},
            memory,
        )
        room = self.ring.pop(0).tensors if len(self.ring) >= self.keep else []
        copies = iter(copied(live.tensors, room, host=True))
        snapshot = replace(
            live,
            params=tuple(next(copies) for _ in params),
            buffers={name: next(copies) for name in live.buffers},
            optimizer={
                i: {k: next(copies) if isinstance(v, Tensor) else copy.deepcopy(v) for k, v in entry.items()}
                for i, entry in live.optimizer.items()
            },
        )
        self.ring, self.tries = [*self.ring, snapshot], 0
        return snapshot

    def of(self, step: int) -> Snapshot | None:
        """The snapshot of this very step whose parameters are where the live ones are, if there is one."""
        newest = self.ring[-1] if self.ring and self.ring[-1].step == step else None
        here = newest is not None and all(p.device.type == "cpu" for p in owned_params(self.optimizer))
        return newest if here else None

    @torch.no_grad()
    def restore(self) -> Snapshot | None:
        """Puts the newest snapshot back in place; None when there is none.

        One that was restored without a healthy one after it gives way to the next older the next time: what it holds
        beside the weights may be spoilt already.

        Parameter groups, schedulers and loop counters stay as they are: the user's schedule goes on.
        """
        if not self.ring:
            return None
        if self.tries and len(self.ring) > 1:
            self.ring, self.tries = self.ring[:-1], 0
        snapshot = self.ring[-1]
        self.tries += 1
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


def local_state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state of one parameter with this process's pieces of its tensors."""
    return {k: local(v) if isinstance(v, Tensor) else v for k, v in state.items()}


@torch.no_grad()
def copied(tensors: Sequence[Tensor], room: Sequence[Tensor] = (), host: bool = False) -> list[Tensor]:
    """Copies of `tensors`, one by one in the memory of `room` where shape and type are the same.

    On a CPU fresh memory costs more than the copying: the system hands it out page by page. With `host` the copies are
    in host memory, pinned for tensors on a CUDA device; the host does not wait for these, their stream keeps the order.
    """
    copies = [
        old if old is not None and fits(old, new, host) else fresh(new, host)
        for old, new in zip_longest(room[: len(tensors)], tensors)
    ]
    if copies:
        torch._foreach_copy_(copies, list(tensors), non_blocking=any(t.is_cuda for t in tensors))
    return copies


def fits(old: Tensor, new: Tensor, host: bool) -> bool:
    """Whether a copy of `new` can live in the memory of `old`."""
    return old.shape == new.shape and old.dtype == new.dtype and (host or old.device == new.device)


def fresh(tensor: Tensor, host: bool) -> Tensor:
    """Memory for a copy."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda) if host else torch.empty_like(tensor)


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
            state[key] = like(value.clone(), param) if isinstance(value, Tensor) else copy.deepcopy(value)


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
