"""COLLECT: reads one optimizer's gradients, losses, buffers and updates, in one process or summed over several.

Communication per step: none with one process; one all-reduce of a vector with everything in it when parameters are
sharded; one small all-reduce of the loss and the changing buffers when every process holds whole replicas. Gradients of
replicas are bit-identical already, their losses are not, and every process has to judge the same loss. That all-reduce
may start before the backward pass (`announce`), which then hides it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.groups import Part
from lightning_gradguard.collect.layers import ParamTable, clean_parameters, module_types
from lightning_gradguard.tensors.copies import chunk_slices, copied, optimizer_params
from lightning_gradguard.tensors.norms import Floats, foreach_norm, read_norms
from lightning_gradguard.tensors.processes import PendingAllReduce, ProcessGroupInfo
from lightning_gradguard.tensors.shards import local, whole_sums


class Collector:
    """Measures what one optimizer is about to use, and what its last sampled step did.

    Args:
        module: The module in training.
        optimizer: Only its parameters are read.
        forward_state: Knows which buffers training changes.
        processes: The processes that train together.
        scaler: A GradScaler that leaves the gradients multiplied by its scale (with a fused optimizer); else None.
        groups: Groups of parameters whose norms are measured: regular expressions by name.
        clipped: Regular expressions of the groups with a clip of their own.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        forward_state: ForwardState,
        processes: ProcessGroupInfo,
        scaler: Any = None,
        groups: Mapping[str, str] | None = None,
        clipped: Sequence[str] = (),
    ) -> None:
        self.module, self.optimizer, self.forward_state, self.processes, self.scaler = (
            module,
            optimizer,
            forward_state,
            processes,
            scaler,
        )
        self._regexes, self._clipped = dict(groups or {}), tuple(clipped)
        self.sample: tuple[Floats, Floats] | None  # (param norm, update ratio) of the last sampled step, [L]
        self._before: list[Tensor] | None
        self._local_norms: Floats | None  # this process's part of a sample: norms of weights and updates, [2T]
        self._announced: PendingAllReduce | None = None
        self.rebuild()

    def rebuild(self) -> None:
        """Reads the optimizer's parameters again: a group was added, or modules were exchanged."""
        owned = optimizer_params(self.optimizer)
        types = module_types(self.module)
        self.table = ParamTable(clean_parameters(self.module), owned, self.processes.shapes, types)
        self.sharded = self.processes.sharded(self.table.params)
        groups = {name: Part(self.table, regex, self.processes.shapes) for name, regex in self._regexes.items()}
        self.groups = {name: part for name, part in groups.items() if part.params}
        self.parts = {regex: Part(self.table, regex, self.processes.shapes) for regex in self._clipped}
        self.sample = self._before = self._local_norms = None  # of other layers
        order = {id(p): i for i, p in enumerate(owned)}
        self._order = [order[id(p)] for p in self.table.params]
        self._reuse: list[Tensor] = []

    @property
    def grad_scale(self) -> float:
        """What the gradients are still multiplied by."""
        return float(self.scaler.get_scale()) if self.scaler is not None else 1.0

    # ---------------------------------------------------------------- gradients, loss, buffers

    def announce(self, losses: Sequence[Tensor], divisor: float = 1.0) -> None:
        """Starts the all-reduce of loss and buffers over whole replicas; to be called before the last backward pass."""
        if not (self.processes.alone or self.sharded):
            self._announced = self.processes.add(self._common(losses, divisor))

    def collect(self, losses: Sequence[Tensor], divisor: float) -> dict[str, Any]:
        """The step's measurements: fields of `GradStats`."""
        owned = sum(len(group["params"]) for group in self.optimizer.param_groups)
        if owned != self.table.owned_count:  # a group was added
            self.rebuild()
        one = self._alone if self.processes.alone else self._together
        norms, loss, buffers, buffer_norm = one(losses, divisor)
        sample, self.sample = self.sample, None
        scale = self.grad_scale
        measured = {
            "layers": self.table.layers, "grad_norm": self.table.per_layer(norms, scale), "loss": loss,
            "buffers": buffers, "buffer_norm": buffer_norm,
            "group_norm": {name: part.norm(norms, scale) for name, part in self.groups.items()},
            "parts": {regex: part.per_layer(norms, scale) for regex, part in self.parts.items()},
        }  # fmt: skip
        if sample is None:
            return measured
        return {**measured, "param_norm": sample[0], "update_ratio": sample[1], "trainable": self.table.trainable()}

    def _alone(self, losses: Sequence[Tensor], divisor: float) -> tuple[Floats, float | None, tuple[str, ...], Floats]:
        """Norms of gradients `[T]`, loss, names and norms of the changing buffers, in one transfer to the host."""
        grads, moving = [p.grad for p in self.table.params], self.forward_state.moving
        norms, values = read_norms([*grads, *(b for _, b in moving)], losses)
        loss = math.fsum(values) / len(values) * divisor if len(values) else None
        return norms[: len(grads)], loss, tuple(name for name, _ in moving), norms[len(grads) :]

    def _together(
        self, losses: Sequence[Tensor], divisor: float
    ) -> tuple[Floats, float | None, tuple[str, ...], Floats]:
        """The same over all processes."""
        announced, self._announced = self._announced, None
        params = self.table.params
        grads = [None if p.grad is None else whole_sums(p.grad) for p in params]
        norms = read_norms([None if g is None else local(g) for g in grads])[0]
        common = 2 + 2 * len(self.forward_state.slots)
        if self.sharded:
            parts = [self.processes.squares(norms, grads, params), *self._sample_squares()]
            vector = torch.cat([self._common(losses, divisor).cpu(), *map(torch.from_numpy, parts)])
            total = self.processes.add(vector).get()
            norms = np.sqrt(total[common : common + len(params)])
            if len(parts) > 1:
                self.sample = self._as_sample(np.sqrt(total[common + len(params) :]))
        else:
            total = (announced or self.processes.add(self._common(losses, divisor))).get()[:common]
        loss = float(total[0] / total[1]) if total[1] else None
        squares, moved = total[2:common].reshape(2, -1)
        names = tuple(slot.name for slot, moves in zip(self.forward_state.slots, moved, strict=True) if moves)
        return norms, loss, names, np.sqrt(squares[moved > 0])

    @torch.no_grad()
    def _common(self, losses: Sequence[Tensor], divisor: float) -> Tensor:
        """Sum and number of losses, then a square and a 1 for each buffer that changes, `[2 + 2 B]`, float64."""
        slots = self.forward_state.slots
        device = losses[0].device if losses else self.processes.device
        out = torch.zeros(2 + 2 * len(slots), dtype=torch.float64, device=device)
        if losses:
            out[0] = torch.stack([loss.detach().reshape(()).to(torch.float64) for loss in losses]).sum() * divisor
            out[1] = len(losses)
        where = [i for i, slot in enumerate(slots) if slot.moving]
        if where:
            index = torch.tensor(where, device=device) + 2
            norms = foreach_norm([local(slots[i].tensor) for i in where], torch.float64).to(device)
            copies = [self.processes.copies(slots[i].tensor) for i in where]
            out[index] = norms.square() / torch.tensor(copies, dtype=torch.float64, device=device)
            out[index + len(slots)] = 1.0
        return out

    @torch.no_grad()
    def nonfinite_state(self) -> tuple[str, ...]:
        """Layers with weights or optimizer state that are not finite, and buffers that were not before the batch.

        With several processes those of any process.
        """
        held = [(name, t) for name, p in self.table.named() for t in (p, *float_state(self.optimizer, p))]
        held += [(slot.name, slot.kept) for slot in self.forward_state.slots if slot.moving and slot.kept is not None]
        norms = read_norms([local(t) for _, t in held])[0]
        bad = tuple(dict.fromkeys(name for (name, _), norm in zip(held, norms, strict=True) if not math.isfinite(norm)))
        if self.processes.alone:
            return bad
        return tuple(dict.fromkeys(name for names in self.processes.from_all(bad) for name in names))

    # ---------------------------------------------------------------- updates

    @torch.no_grad()
    def keep_weights(self, copies: Sequence[Tensor] | None = None) -> None:
        """Before a step whose update is sampled: copies the weights, unless copies of all of them are given."""
        now = [local(p) for p in self.table.params]
        self._reuse = [] if copies is not None else copied(now, self._reuse)
        self._before = self._reuse if copies is None else [copies[i] for i in self._order]

    def forget_weights(self) -> None:
        """Before a step whose update is not sampled."""
        self._before = None

    def measure_update(self) -> None:
        """After the step: computes the sample, at once or (sharded) with the next step's all-reduce."""
        if self._before is not None:
            self._measure(self._before)

    @torch.no_grad()
    def _measure(self, before: list[Tensor]) -> None:
        now = [local(p) for p in self.table.params]
        moved = [read_norms(torch._foreach_sub(now[part], before[part]))[0] for part in chunk_slices(now)]
        norms = np.concatenate([read_norms(before)[0], *moved])
        self._before = None
        if any(t.device.type != "cpu" for t in self._reuse):  # torch keeps that memory ready by itself
            self._reuse = []
        if self.sharded:
            self._local_norms = norms
        else:
            self.sample = self._as_sample(norms)

    @property
    def waiting(self) -> bool:
        """Whether a sample was taken whose parts the processes have not summed yet."""
        return self._local_norms is not None

    def _sample_squares(self) -> list[Floats]:
        norms, self._local_norms = self._local_norms, None
        params = self.table.params
        if norms is None:
            return []
        return [self.processes.squares(norms, [*params, *params], [*params, *params])]

    def _as_sample(self, norms: Floats) -> tuple[Floats, Floats]:
        count = len(norms) // 2
        weight, update = self.table.per_layer(norms[:count]), self.table.per_layer(norms[count:])
        with np.errstate(divide="ignore", invalid="ignore"):
            return weight, np.asarray(np.where(update > 0, update / weight, 0.0), dtype=np.float64)


def float_state(optimizer: Optimizer, param: Tensor) -> list[Tensor]:
    """What an optimizer remembers of a parameter in tensors of floats: momentum, moments."""
    state = optimizer.state.get(param, {}).values()
    return [value for value in state if isinstance(value, Tensor) and value.ndim and value.is_floating_point()]
