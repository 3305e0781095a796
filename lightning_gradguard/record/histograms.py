"""RECORD: histograms of every layer's gradients and updates, on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_gradguard.collect.layers import ParamTable
from lightning_gradguard.tensors.norms import Floats

#: Bins of a histogram: as many as W&B keeps by default.
BINS = 64


class Histogram(NamedTuple):
    """A histogram with bins of equal width.

    Args:
        edges: Limits of the bins, `[B + 1]`.
        counts: Numbers in each bin, `[B]`.
        total: Sum of all numbers.
        squares: Sum of their squares.
    """

    edges: Floats
    counts: Floats
    total: float
    squares: float


class Histograms:
    """Measures one optimizer's gradients and updates at every `every`-th step.

    Args:
        every: Steps between two histograms of a layer.
        table: Returns the optimizer's parameters by layer.
        prefix: Their names begin with it.
        write: Is given histograms by name, and their place on the loggers' axis.

    Example:
        >>> weight = torch.zeros(4, requires_grad=True)
        >>> table = ParamTable([("net.weight", weight)], [weight])
        >>> seen = Histograms(1, lambda: table, "gradguard", lambda found, x: print(x, *found))
        >>> weight.grad = torch.arange(4.0)
        >>> seen.begin(step=0, x=0)
        0 gradguard/gradients/net
        >>> torch.optim.SGD([weight], lr=0.1).step()
        >>> seen.end()
        0 gradguard/updates/net
    """

    def __init__(
        self,
        every: int,
        table: Callable[[], ParamTable],
        prefix: str,
        write: Callable[[dict[str, Histogram], int], None],
    ) -> None:
        self.every, self.table, self.prefix, self.write = every, table, prefix, write
        self._before: list[tuple[str, Tensor, Tensor]] = []  # layer, parameter, its value before the step
        self._x = 0

    def begin(self, step: int, x: int, scale: float = 1.0) -> None:
        """Before a step, when the gradients are ready.

        Args:
            step: The optimizer step.
            x: Its place on the loggers' axis.
            scale: What the gradients are still multiplied by.
        """
        self._before, self._x = [], x
        if step % self.every:
            return
        named = list(self.table().named())
        self._tell("gradients", ((name, dense(p.grad) / scale) for name, p in named if p.grad is not None))
        self._before = [(name, p, p.detach().clone()) for name, p in named]

    def end(self) -> None:
        """After a step that has happened."""
        before, self._before = self._before, []
        if before:
            self._tell("updates", ((name, p.detach() - old) for name, p, old in before))

    @torch.no_grad()
    def _tell(self, what: str, values: Iterable[tuple[str, Tensor]]) -> None:
        layers: dict[str, list[Tensor]] = {}
        for name, part in values:
            layers.setdefault(name, []).append(part.flatten())
        made = {f"{self.prefix}/{what}/{name}": histogram_of(parts) for name, parts in layers.items()}
        self.write({name: histogram for name, histogram in made.items() if histogram is not None}, self._x)


def histogram_of(parts: Iterable[Tensor]) -> Histogram | None:
    """The histogram of all numbers in one-dimensional tensors; None where they are all the same or not finite.

    Example:
        >>> histogram_of([torch.tensor([0.0, 1.0]), torch.tensor([64.0])]).counts.nonzero()
        (array([ 0,  1, 63]),)
    """
    values = torch.cat([part.float() for part in parts])
    if not values.numel():
        return None
    low, high = torch.stack(values.aminmax()).tolist()
    if not (low < high and np.isfinite([low, high]).all()):
        return None
    counts = torch.histc(values, BINS, low, high).double().cpu().numpy()
    sums = torch.stack([values.double().sum(), values.double().square().sum()]).tolist()
    return Histogram(np.linspace(low, high, BINS + 1), counts, *sums)


def dense(tensor: Tensor) -> Tensor:
    """The numbers of a gradient, which may be sparse."""
    return tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
