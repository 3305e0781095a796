"""COLLECT: what a forward pass changes before its batch can be judged, buffers and metrics, and how to restore it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_gradguard.collect.layers import clean_paths


class ForwardState:
    """What a forward pass changes before its batch can be judged: buffers and the states of metrics.

    `save` is called before the batch, `restore` when its step is cancelled. A buffer that the first batch does not
    change (a mask, a table of positions) costs nothing afterwards: its version counter tells when that changes.
    BatchNorm's buffers are copied every time, because its kernels do not increment the counter.

    Args:
        module: The module in training, with its torchmetrics inside.
        logged: Returns further metrics, e.g. those behind `self.log`.
    """

    def __init__(self, module: nn.Module, logged: Callable[[], Iterable[Any]] = tuple) -> None:
        self._logged = logged
        self.rescan(module)

    def rescan(self, module: nn.Module) -> None:
        """Looks for buffers and metrics again, after modules were exchanged."""
        clean = clean_paths(module)
        self.slots = [
            _Slot(f"{clean[path]}.{key}".lstrip("."), owner._buffers, key, uncounted=isinstance(owner, _NormBase))
            for path, owner in module.named_modules()
            for key in owner._buffers
        ]
        self._uncounted = [slot for slot in self.slots if slot.uncounted]
        self._present: list[Tensor | None] = []  # uncounted buffers, as of the last one-by-one save
        self._copies: list[tuple[list[Tensor], list[Tensor]]] = []  # of them, by dtype: one kernel for each
        self._moving: list[_Slot] | None = None  # computed when asked for
        self._own = [m for m in module.modules() if is_metric(m)]
        self._metrics: list[tuple[Any, dict[str, Any], int, Any]] = []

    @property
    def moving(self) -> list[tuple[str, Tensor]]:
        """The float buffers that training changes, with their names."""
        if self._moving is None:
            self._moving = [slot for slot in self.slots if slot.moving]
        return [(slot.name, slot.tensor) for slot in self._moving]

    @torch.no_grad()
    def save(self) -> None:
        """Copies buffers and metrics as they are now."""
        present = [slot.home.get(slot.key) for slot in self._uncounted]
        known = len(present) == len(self._present) and all(map(operator.is_, present, self._present))
        known = known and self._copied()
        for slot in self.slots:
            if not (slot.uncounted and known) and slot.save():
                self._moving = None
        if not known:
            self._present, self._copies = present, by_type((slot.kept, slot.tensor) for slot in self._uncounted)
        self._metrics = [
            (m, {key: mark(getattr(m, key)) for key in m._defaults}, m._update_count, m._computed)
            for m in self._all_metrics()
        ]

    def _copied(self) -> bool:
        """Copies the uncounted buffers at once; False where one has another shape now (asking each costs more)."""
        try:
            for copies, buffers in self._copies:
                torch._foreach_copy_(copies, buffers)
        except RuntimeError:
            return False
        return True

    @torch.no_grad()
    def restore(self) -> None:
        """Puts buffers and metrics back to where `save` found them."""
        for slot in self.slots:
            slot.restore()
        self._moving = None
        saved = {id(entry[0]) for entry in self._metrics}
        for metric, states, count, computed in self._metrics:
            for key, kept in states.items():
                setattr(metric, key, unmark(getattr(metric, key), kept))
            metric._update_count, metric._computed = count, computed
        for metric in self._all_metrics():
            if id(metric) not in saved:  # created in the cancelled batch
                metric.reset()

    def _all_metrics(self) -> list[Any]:
        return [*self._own, *(m for m in self._logged() if is_metric(m) and m._defaults)]


@dataclass
class _Slot:
    """One buffer: where it is stored, the version last seen and a copy as of then (None for a constant).

    `uncounted`: its version counter does not tell about changes.
    """

    name: str
    home: dict[str, Tensor | None]
    key: str
    uncounted: bool = False
    version: int = -1
    kept: Tensor | None = None
    moves: bool = False

    @property
    def tensor(self) -> Tensor:
        buffer = self.home.get(self.key)
        return torch.empty(0) if buffer is None or buffer.is_inference() else buffer

    @property
    def moving(self) -> bool:
        """Whether it holds floats that training changes."""
        return self.moves and self.tensor.is_floating_point() and self.tensor.numel() > 0

    def save(self) -> bool:
        """Copies the buffer if it may have changed; whether it has begun to change, or is another one."""
        buffer, first, moved = self.tensor, self.version == -1, self.moves
        if buffer._version == self.version and not self.uncounted:
            self.kept = self.kept if self.moves else None
            return False
        self.moves = self.uncounted or not first
        same = self.kept is not None and self.kept.shape == buffer.shape and self.kept.device == buffer.device
        self.kept = self.kept.copy_(buffer) if same and self.kept is not None else buffer.detach().clone()
        self.version = buffer._version
        return not same or self.moves != moved

    def restore(self) -> None:
        buffer = self.tensor
        touched = self.uncounted or buffer._version != self.version
        if touched and self.kept is not None and self.kept.shape == buffer.shape:
            buffer.copy_(self.kept)
            self.version, self.moves = buffer._version, True


def by_type(pairs: Iterable[tuple[Tensor | None, Tensor]]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Copies and their originals, as lists for each dtype."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for copy, original in pairs:
        if copy is not None:
            copies, originals = groups.setdefault(original.dtype, ([], []))
            copies.append(copy)
            originals.append(original)
    return list(groups.values())


def is_metric(module: Any) -> bool:
    """Whether it is a torchmetrics metric, without importing torchmetrics."""
    return hasattr(module, "_defaults") and hasattr(module, "_update_count")


def mark(state: Any) -> Any:
    """What restores a metric's state: a copy of a tensor, the length of a list."""
    return state.clone() if isinstance(state, Tensor) else len(state)


def unmark(state: Any, kept: Any) -> Any:
    """The state that `mark` was taken of; in place where shapes allow, since metrics of a collection share tensors."""
    if not isinstance(kept, Tensor):
        return state[:kept]
    return state.copy_(kept) if state.shape == kept.shape and state.dtype == kept.dtype else kept
