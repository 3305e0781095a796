"""Following a forward and backward pass to the first operation that makes NaN or Inf of finite numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_gradguard.modules.tracing import ATTRIBUTE_ACCESS, running_module, tensors_in, user_line


class Cause(NamedTuple):
    """Why a tensor is not finite.

    Args:
        operation: torch's name of the operation that made the first NaN or Inf; empty where an input held it.
        where: The operation, with its module and source line.
        has_nan: Whether it made NaN, and not only Inf.
    """

    operation: str
    where: str
    has_nan: bool


class FirstNonFinite(TorchFunctionMode):
    """Follows NaN and Inf from the operation that made them, in a forward pass within it and the backward pass after.

    Inf that never reaches the loss, such as that of a mask before a softmax, is no cause. It asks the device about the
    numbers of every operation, so it is for a single pass.

    Args:
        modules: `id` of each module -> its name.

    Example:
        >>> with FirstNonFinite({}) as first:
        ...     loss = torch.tensor([0.0, 1.0]).log().mul(0.0).sum()
        >>> first.of(loss)[0]
        'log'
        >>> x = torch.zeros(2, requires_grad=True)
        >>> with FirstNonFinite({}) as first:
        ...     loss = x.sqrt().sum()
        >>> _ = torch.autograd.grad(loss, x)
        >>> first.of(loss)[1].split(" (")[0]
        'the gradient of sqrt'
    """

    def __init__(self, modules: Mapping[int, str]) -> None:
        super().__init__()
        self._modules = modules
        self._causes: dict[int, tuple[Tensor, Cause]] = {}  # by `id`; the tensors are kept, so that none is reused
        self._nodes: set[Any] = set()  # of the graph, each with a hook
        self._gradient: tuple[str, ...] = ()

    def of(self, loss: Any) -> tuple[str, ...]:
        """The operation in which the loss first was not finite, or else the gradient, and where; empty if both are."""
        known = self._causes.get(id(loss))
        return known[1][:2] if known is not None else self._gradient

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [tensor for tensor in tensors_in((args, kwargs)) if not is_finite(tensor)]
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ATTRIBUTE_ACCESS:
            self._hand_on(args[0], output)
        else:  # `x[0] = y` returns nothing and changes its first argument
            self._see(name.strip("_"), inputs, list(tensors_in(args[:1] if output is None else output)))
        return output

    def _hand_on(self, tensor: Tensor, attribute: Any) -> None:
        """An attribute such as `tensor.T` is not finite for the same cause."""
        known = self._causes.get(id(tensor))
        for view in tensors_in(attribute) if known is not None else ():
            self._causes[id(view)] = view, known[1]  # type: ignore[index]

    def _see(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """One operation, with those of its inputs that were not finite."""
        where, cause = self._where(name), None
        if inputs:
            known = self._causes.get(id(inputs[0]))
            cause = known[1] if known is not None else Cause("", f"the input of {where}", has_nan(inputs[0]))
        for tensor in outputs:
            if is_finite(tensor):
                self._causes.pop(id(tensor), None)
            else:
                self._causes[id(tensor)] = tensor, self._cause(Cause(name, where, has_nan(tensor)), cause)
            if tensor.grad_fn is not None:
                self._watch(tensor.grad_fn, name, where)

    def _cause(self, now: Cause, before: Cause | None) -> Cause:
        """The cause of an output: that of the input, and where NaN was made of Inf, this operation, too."""
        if before is None:
            return now
        if before.has_nan or not now.has_nan:
            return before
        return Cause(before.operation, f"{now.where}, after {before.where}", has_nan=True)

    def _where(self, name: str) -> str:
        module, line = running_module(self._modules), os.sep.join(user_line().split(os.sep)[-2:])
        return f"{name} of {module} ({line})" if module else f"{name} ({line})"

    def _watch(self, node: Any, operation: str, where: str) -> None:
        """Hangs a hook on every new node of the graph: the operation made them."""
        waiting = [node]
        while waiting:
            node = waiting.pop()
            if node is not None and node.next_functions and node not in self._nodes:
                self._nodes.add(node)
                node.register_hook(partial(self._gradients, operation, where))
                waiting += [before for before, _ in node.next_functions]

    def _gradients(
        self, operation: str, where: str, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]
    ) -> None:
        """The gradients that a node has received (`outputs`) and passed on (`inputs`)."""
        if not self._gradient and all(map(is_finite, outputs)) and not all(map(is_finite, inputs)):
            self._gradient = operation, f"the gradient of {where}"


def is_finite(tensor: Tensor | None) -> bool:
    """Whether a tensor holds neither NaN nor Inf, as far as it can be read."""
    return not readable(tensor) or bool(torch.isfinite(tensor).all())  # type: ignore[arg-type]


def has_nan(tensor: Tensor) -> bool:
    """Whether a tensor holds NaN."""
    return readable(tensor) and bool(torch.isnan(tensor).any())


def readable(tensor: Tensor | None) -> bool:
    """Whether a tensor holds numbers that may be NaN or Inf."""
    return (
        tensor is not None
        and (tensor.is_floating_point() or tensor.is_complex())
        and tensor.layout == torch.strided
        and not tensor.is_meta
    )
