"""ACT: an optimizer's `step` for the length of a run: what is to happen around it, and how it is cancelled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradguard.tensors.copies import copied, optimizer_params
from lightning_gradguard.tensors.shards import local


class StepCancelled(BaseException):
    """Leaves an optimizer's `step` after its closure. No `except Exception` of an optimizer stops it."""


class StepHooks:
    """Functions around every `step` of an optimizer, also of one that has no hooks of its own.

    Args:
        optimizer: Any object with `param_groups` and `step`.
        before: Called before a step.
        happened: Called after a step.
        after: Called when a step has ended in any way, also by an exception.

    Example:
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> hooks = StepHooks(sgd, before=[lambda: print("before")], happened=[lambda: print("happened")])
        >>> sgd.step()
        before
        happened
        >>> hooks.remove()
        >>> sgd.step()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        before: list[Callable[[], Any]] | None = None,
        happened: list[Callable[[], Any]] | None = None,
        after: list[Callable[[], Any]] | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.before, self.happened, self.after = before or [], happened or [], after or []
        self._own = vars(optimizer).get("step")  # a schedule puts its own there, too
        self._inner = inner = optimizer.step
        self._removed = False

        # A schedule that is created later takes `step.__func__`, and looks for its mark there.
        @functools.wraps(getattr(inner, "__func__", inner))
        def step(_: Any, *args: Any, **kwargs: Any) -> Any:
            return inner(*args, **kwargs) if self._removed else self._step(*args, **kwargs)

        self._method = MethodType(step, optimizer)
        optimizer.step = self._method  # type: ignore[method-assign]

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        for call in self.before:
            call()
        try:
            result = self._inner(*args, **kwargs)
            for call in self.happened:
                call()
            return result
        finally:
            for call in self.after:
                call()

    def remove(self) -> None:
        """Puts the optimizer's own `step` back; where somebody has wrapped it since, it has no effect from now on."""
        self._removed = True
        if vars(self.optimizer).get("step") is not self._method:
            return
        if self._own is None:
            del self.optimizer.step
        else:
            self.optimizer.step = self._own  # type: ignore[method-assign]


class GuardedStep(StepHooks):
    """An optimizer's `step` that can be cancelled before its update, whatever the update is.

    A closure, as Lightning uses it, computes the gradients within `step`. When `cancel` was called meanwhile, `step`
    is left as soon as the closure returns; without a closure it is not called at all. So no weight, no state and no
    setting of the optimizer changes. Only the first evaluation of the closure can be cancelled in this way: where an
    optimizer evaluates it again within the same step (LBFGS), gradients of None end the step.

    Args:
        optimizer: As in `StepHooks`.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> sgd = torch.optim.SGD([weight], lr=1.0, weight_decay=0.1)
        >>> guarded = GuardedStep(sgd)
        >>> weight.grad = torch.ones(1)
        >>> guarded.cancel()
        >>> sgd.step()
        >>> weight.detach()
        tensor([1.])
    """

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        self.cancelled = False
        self._evaluations = 0  # of the closure in this step
        self._moves_first: bool | None = None  # whether weights change before the closure; None until that is known
        self._versions: list[int] = []
        self._kept: list[Tensor] = []

    def cancel(self) -> None:
        """The step that takes place, or the next one, has no effect."""
        self.cancelled = True
        if self._kept and self._evaluations == 1:
            with torch.no_grad():
                torch._foreach_copy_(self._weights(), self._kept)

    def begin_evaluation(self) -> None:
        """The gradients are ready: nothing has cancelled the step they are for."""
        self.cancelled = False

    def _weights(self) -> list[Tensor]:
        return [local(p.detach()) for p in optimizer_params(self.optimizer)]

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        closure = kwargs.get("closure", args[0] if args else None)
        if closure is None and self.cancelled:
            self.cancelled = False
            self.optimizer._opt_called = True  # type: ignore[attr-defined]  # else a schedule warns of the order
            return None
        if closure is None:
            return super()._step(*args, **kwargs)
        return self._step_with(closure, args, kwargs)

    def _step_with(self, closure: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loss: Any = None
        self._evaluations = 0
        self._note_weights()

        def evaluate() -> Any:
            nonlocal loss
            self._evaluations += 1
            if self._moves_first is None:
                self._moves_first = self._versions != [p._version for p in self._weights()]
            loss = closure()
            if self.cancelled and self._evaluations == 1:
                raise StepCancelled
            return loss

        try:
            if "closure" in kwargs:
                return super()._step(*args, **{**kwargs, "closure": evaluate})
            return super()._step(evaluate, *args[1:], **kwargs)
        except StepCancelled:
            return loss
        finally:
            self.cancelled = False

    def _note_weights(self) -> None:
        """What `cancel` puts back for an optimizer that moves the weights before it evaluates the closure."""
        if self._moves_first is None:
            self._versions = [p._version for p in self._weights()]
        elif self._moves_first:
            self._kept = copied(self._weights(), self._kept)
