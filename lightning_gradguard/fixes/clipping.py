"""Gradient clipping by norm, by value and adaptively, before every step of an optimizer.

Clipping is a hook of `optimizer.step`, so it works in a plain training loop, in Lightning and with a GradScaler.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradguard.fixes.change import Change, Changes


def clip_by_norm(optimizer: Optimizer, max_norm: float = 2.0) -> Changes:
    """Scales all gradients by one factor before every step, so that their global L2 norm is at most `max_norm`.

    Args:
        optimizer: Any optimizer; only its own parameters are clipped.
        max_norm: Largest global norm, positive. Default chosen, not measured; 1 is as common.

    Returns:
        One change.

    Raises:
        ValueError: If `max_norm` is not positive.

    Example:
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> sgd = torch.optim.SGD([weight], lr=1.0)
        >>> _ = clip_by_norm(sgd, max_norm=1.0)
        >>> weight.grad = torch.tensor([30.0, 40.0])
        >>> _ = sgd.step()
        >>> weight.detach()
        tensor([-0.6000, -0.8000])

    References:
        Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063.
    """
    limit = _positive("clip_by_norm(max_norm=...)", max_norm)
    return _hook(optimizer, lambda p: torch.nn.utils.clip_grad_norm_(p, limit), f"clipped by norm at {limit:g}")


def clip_by_value(optimizer: Optimizer, clip_value: float = 1.0) -> Changes:
    """Limits every gradient element to ±`clip_value` before every step. This changes the gradient's direction.

    Args:
        optimizer: As in `clip_by_norm`.
        clip_value: Largest absolute value, positive. Default chosen, not measured.

    Returns:
        One change.

    Raises:
        ValueError: If `clip_value` is not positive.

    Example:
        >>> print(*clip_by_value(torch.optim.SGD([torch.zeros(1)], lr=0.1), 0.5))
        optimizer: not clipped -> clipped by value at 0.5

    References:
        Mikolov 2012, "Statistical language models based on neural networks".
    """
    limit = _positive("clip_by_value(clip_value=...)", clip_value)
    return _hook(optimizer, lambda p: torch.nn.utils.clip_grad_value_(p, limit), f"clipped by value at {limit:g}")


def clip_adaptive(
    optimizer: Optimizer, clip_factor: float = 0.01, *, eps: float = 1e-3, exclude: Collection[Tensor] = ()
) -> Changes:
    """Limits each unit's gradient norm to `clip_factor` times the norm of its weights, before every step.

    A unit is a row of a Linear's weight or a filter of a convolution. Biases and scales count as one unit each.

    Args:
        optimizer: As in `clip_by_norm`.
        clip_factor: Largest ratio of gradient norm to weight norm, positive. Default as in Brock et al. 2021.
        eps: Smallest weight norm that is used in the ratio, positive. Default as in the same paper.
        exclude: Parameters that are not clipped. The paper excludes the last layer.

    Returns:
        One change.

    Raises:
        ValueError: If `clip_factor` or `eps` is not positive.

    Example:
        >>> weight = torch.ones(1, 4, requires_grad=True)
        >>> sgd = torch.optim.SGD([weight], lr=1.0)
        >>> _ = clip_adaptive(sgd, clip_factor=0.5)
        >>> weight.grad = torch.full((1, 4), 100.0)
        >>> _ = sgd.step()
        >>> weight.detach()
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])

    References:
        Brock, De, Smith and Simonyan 2021, arXiv 2102.06171.
    """
    factor = _positive("clip_adaptive(clip_factor=...)", clip_factor)
    floor = _positive("clip_adaptive(eps=...)", eps)
    left_alone = {id(p) for p in exclude}

    def clip(parameters: list[Tensor]) -> None:
        for p in parameters:
            if id(p) not in left_alone and p.grad is not None:
                limit = factor * _unit_norm(p.detach()).clamp(min=floor)
                norm = _unit_norm(p.grad)
                p.grad.mul_(torch.where(norm > limit, limit / norm.clamp(min=1e-12), torch.ones_like(norm)))

    return _hook(optimizer, clip, f"clipped at {factor:g} of each unit's weight norm")


def _unit_norm(tensor: Tensor) -> Tensor:
    dims = tuple(range(1, tensor.ndim)) or None
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=dims is not None)
    return norm


def _positive(call: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"`{call}` must be positive, got {value!r}.")
    return value


def _hook(optimizer: Optimizer, clip: Callable[[list[Tensor]], Any], after: str) -> Changes:
    """Clips between backward and step. Lightning runs backward in the step's closure, so the closure is wrapped."""

    def clip_now() -> None:
        if getattr(optimizer, "grad_scale", None) is not None:
            raise RuntimeError(
                "gradients of a fused optimizer are still multiplied by the GradScaler's factor and cannot be clipped "
                "here; create the optimizer with `fused=False`."
            )
        clip([p for p in _parameters(optimizer) if p.grad is not None])

    def before_step(_: Optimizer, args: Any, kwargs: Any) -> Any:
        positional = len(args) > 1
        closure = args[1] if positional else kwargs.get("closure")
        if closure is None:
            clip_now()
            return None

        def clipped_closure() -> Any:
            loss = closure()
            clip_now()
            return loss

        if positional:
            return (args[0], clipped_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": clipped_closure}

    optimizer.register_step_pre_hook(before_step)
    return (Change("optimizer", "not clipped", after),)


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"])
