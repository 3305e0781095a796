"""Training in several processes: which piece of a tensor this one holds, and sums over all of them.

A `DTensor` (FSDP2, HSDP, tensor parallelism and their combinations) knows its placement; for FSDP1 the wrapper knows.
Every number here is a sum over all processes, so all of them get the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate


class ProcessGroupInfo:
    """The processes that train one model together; one process alone by default.

    Args:
        root: The outermost module, with FSDP's wrappers.
        world: How many processes there are.
        device: Where collectives expect their tensors.
        add: Replaces `torch.distributed.all_reduce` where another library communicates (XLA): tensor in, sum out.
    """

    def __init__(
        self,
        root: nn.Module | None = None,
        world: int = 1,
        device: torch.device | str = "cpu",
        add: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.world, self.device, self._add = world, torch.device(device), add
        self.alone = world == 1  # whether there is only this process
        self._copies: dict[int, int] = {}  # id of an FSDP1 parameter -> number of processes with the same piece
        self._shapes: dict[int, tuple[torch.Size, ...]] = {}  # id of an FSDP1 parameter -> shapes before flattening
        if root is not None and world > 1:
            self._look_up_fsdp1(root)

    def _look_up_fsdp1(self, root: nn.Module) -> None:
        from torch.distributed.fsdp import FullyShardedDataParallel

        for wrapper in FullyShardedDataParallel.fsdp_modules(root):
            handle = wrapper._handle
            if handle is None:
                continue
            flat = handle.flat_param
            copies = self.world // handle.process_group.size() if handle.uses_sharded_strategy else self.world
            self._copies[id(flat)], self._shapes[id(flat)] = copies, tuple(flat._shapes)
            for p, shape in zip(flat._params or (), flat._shapes, strict=False):
                self._copies[id(p)], self._shapes[id(p)] = copies, (shape,)

    @property
    def flattened(self) -> bool:
        """Whether parameters are pieces of FSDP1's flat ones, which have no rows or units."""
        return bool(self._copies)

    def shapes(self, param: Tensor) -> tuple[torch.Size, ...]:
        """Shapes of the whole parameters behind `param`: several for a flat parameter of FSDP1."""
        return self._shapes.get(id(param), (param.shape,))

    def sharded(self, params: Iterable[Tensor]) -> bool:
        """Whether some process holds only a piece of some parameter, so that norms need a sum over all of them."""
        return any(self.copies(p) < self.world for p in params)

    def copies(self, tensor: Tensor, param: Tensor | None = None) -> int:
        """How many processes hold the same piece of `tensor`, the gradient of `param` or a parameter itself."""
        if isinstance(tensor, DTensor):
            return copies_of(tensor.device_mesh, tensor.placements, self.world)
        return self._copies.get(id(tensor if param is None else param), self.world)

    def squares(
        self, norms: NDArray[np.float64], tensors: Sequence[Tensor | None], params: Sequence[Tensor]
    ) -> NDArray[np.float64]:
        """Squared norms of local pieces, each over the number of its copies: their sum over all processes is exact."""
        copies = [1 if t is None else self.copies(t, p) for t, p in zip(tensors, params, strict=True)]
        return np.asarray(np.square(norms) / np.array(copies, dtype=np.float64))

    def from_first(self, value: Any) -> Any:
        """The first process's `value`, a small plain object, on all of them; for rare use."""
        if self._add is not None:
            return None
        box = [value]
        torch.distributed.broadcast_object_list(box, device=self.device)
        return box[0]

    def from_all(self, value: Any) -> list[Any]:
        """Every process's `value`, a small plain object, in order of rank; for rare use."""
        if self._add is not None:
            return []
        box: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(box, value)
        return box

    def replicas(self, params: Iterable[Tensor]) -> bool:
        """Whether there are several processes, each with whole parameters, that communicate through torch."""
        return not self.alone and self._add is None and not self.sharded(params)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over all processes; not finite where it is not in one of them."""
        if self.alone:
            return list(values)
        return [float(total) / self.world for total in self.add(torch.tensor(values, dtype=torch.float64)).get()]

    def average_gradients(self, params: Sequence[Tensor]) -> None:
        """Makes every gradient its mean over all processes; 0 counts for a process that has none."""
        if self.alone:
            return
        has = self.add(torch.tensor([p.grad is not None for p in params], dtype=torch.float64)).get()
        for p in (p for p, count in zip(params, has, strict=True) if count):
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            torch.distributed.all_reduce(p.grad.div_(self.world))

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Gives tensors the values that they have in the first process."""
        if not self.alone:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    def add(self, values: Tensor) -> PendingAllReduce:
        """Starts the all-reduce of `values`."""
        values = values.to(self.device)
        if self._add is not None:
            return PendingAllReduce(self._add(values))
        return PendingAllReduce(values, torch.distributed.all_reduce(values, async_op=True))


class PendingAllReduce:
    """A sum over all processes that may not be complete yet."""

    def __init__(self, values: Tensor, work: Any = None) -> None:
        self._values, self._work = values, work

    def get(self) -> NDArray[np.float64]:
        """The sum, when it is complete."""
        if self._work is not None:
            self._work.wait()
        return self._values.cpu().to(torch.float64).numpy()


@cache
def copies_of(mesh: DeviceMesh, placements: tuple[Placement, ...], world: int) -> int:
    """How many of `world` processes hold the same piece: replicas inside the mesh, times the number of meshes."""
    replicas = math.prod(mesh.size(d) for d, place in enumerate(placements) if isinstance(place, Replicate))
    return replicas * world // mesh.size()
