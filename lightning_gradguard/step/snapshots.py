"""ACT: copies of a healthy run in host memory, and how to restore them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.tensors.copies import copied, optimizer_params
from lightning_gradguard.tensors.shards import like, local


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Copies of everything a rollback puts back, shard-local under sharding.

    Args:
        step: The optimizer step before which it was taken, with a finite loss measured on these very weights.
        params: Copies of the parameters.
        buffers: Copies of the module's buffers, by name.
        optimizer: Copies of the optimizer's state, by index of the parameter.
        scaler: The GradScaler's state.
        loss: The median loss up to this step; NaN when it is not known.
    """

    step: int
    params: tuple[Tensor, ...]
    buffers: dict[str, Tensor]
    optimizer: dict[int, dict[str, Any]]
    scaler: dict[str, Any]
    loss: float = math.nan

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
    """Snapshots of one optimizer's parameters, in host memory: the newest ones, and the one with the lowest loss.

    Args:
        module: Whose buffers are kept too.
        optimizer: Whose parameters and state are kept.
        keep: How many in all; at least 1. With 1 it is the newest.
        scaler: A GradScaler, when there is one.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer, keep: int = 2, scaler: Any = None) -> None:
        self.module, self.optimizer, self.keep, self.scaler = module, optimizer, keep, scaler
        self.ring: list[Snapshot] = []  # oldest first
        self.tries = 0

    @property
    def newest(self) -> Snapshot | None:
        """The latest; None without snapshots."""
        return self.ring[-1] if self.ring else None

    @property
    def best(self) -> Snapshot | None:
        """The newest of those with the lowest loss; None while no loss is known."""
        lowest = min((s.loss for s in self.ring if math.isfinite(s.loss)), default=math.nan)
        return next((s for s in reversed(self.ring) if s.loss == lowest), None)

    def newest_until(self, step: int | None = None) -> Snapshot | None:
        """The latest of those not taken after a step; None without one."""
        return next((s for s in reversed(self.ring) if step is None or s.step <= step), None)

    def forget_after(self, step: int) -> None:
        """Lets the snapshots go that were taken after a step."""
        self.ring, self.tries = [s for s in self.ring if s.step <= step], 0

    def forget_losses(self) -> None:
        """The losses of the snapshots no longer compare with those of later ones."""
        self.ring = [replace(snapshot, loss=math.nan) for snapshot in self.ring]

    def _evict(self) -> list[Tensor]:
        """Makes room for one snapshot; the memory of the oldest, which goes unless it is the best of several."""
        if len(self.ring) < self.keep:
            return []
        best = self.best if self.keep > 1 else None
        oldest = next(s for s in self.ring if s is not best)
        self.ring = [s for s in self.ring if s is not oldest]
        return oldest.tensors

    @torch.no_grad()
    def take(self, step: int, loss: float = math.nan) -> Snapshot:
        """Copies the present state, into the memory of a snapshot that is given up for it when there are too many.

        Args:
            step: The optimizer step that is about to happen.
            loss: The median loss up to this step.
        """
        params = optimizer_params(self.optimizer)
        live = Snapshot(
            step,
            tuple(local(p.detach()) for p in params),
            {name: local(b) for name, b in self.module.named_buffers()},
            {i: local_state(self.optimizer.state[p]) for i, p in enumerate(params) if p in self.optimizer.state},
            copy.deepcopy(self.scaler.state_dict()) if self.scaler is not None else {},
            loss,
        )
        copies = iter(copied(live.tensors, self._evict(), host=True))
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

    def clear(self) -> None:
        """Lets all snapshots go: they are of another model."""
        self.ring, self.tries = [], 0

    def of(self, step: int) -> Snapshot | None:
        """The snapshot of this very step whose parameters are where the live ones are, if there is one."""
        newest = self.ring[-1] if self.ring and self.ring[-1].step == step else None
        here = newest is not None and all(p.device.type == "cpu" for p in optimizer_params(self.optimizer))
        return newest if here else None

    @contextmanager
    @torch.no_grad()
    def installed(self, snapshot: Snapshot) -> Iterator[None]:
        """The weights and buffers of a snapshot in place of the present ones, which come back bit for bit."""
        pairs = [(local(p), s) for p, s in zip(optimizer_params(self.optimizer), snapshot.params, strict=False)]
        pairs += [(local(b), snapshot.buffers[n]) for n, b in self.module.named_buffers() if n in snapshot.buffers]
        pairs = [(present, saved) for present, saved in pairs if present.shape == saved.shape]
        before = [present.clone() for present, _ in pairs]
        for present, saved in pairs:
            present.copy_(saved)
        try:
            with torch.enable_grad():
                yield
        finally:
            for (present, _), kept in zip(pairs, before, strict=True):
                present.copy_(kept)

    def restore_best(self) -> Snapshot | None:
        """Puts the snapshot with the lowest loss back, the newest where no loss is known; None when there is none."""
        best = self.best or self.newest
        self.ring, self.tries = [best] if best is not None else [], 0
        return self.restore()

    @torch.no_grad()
    def restore(self) -> Snapshot | None:
        """Puts the newest snapshot back in place; None when there is none.

        A snapshot that was restored and not followed by a healthy one is replaced by the next older one the next time:
        its optimizer state may be damaged already. Parameter groups, schedulers and loop counters are not restored: the
        user's schedule goes on.
        """
        if not self.ring:
            return None
        if self.tries and len(self.ring) > 1:
            self.ring, self.tries = self.ring[:-1], 0
        snapshot = self.ring[-1]
        self.tries += 1
        params = optimizer_params(self.optimizer)
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


def local_state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state of one parameter with this process's pieces of its tensors."""
    return {k: local(v) if isinstance(v, Tensor) else v for k, v in state.items()}


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
