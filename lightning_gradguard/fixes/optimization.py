"""Optimizer and data loader: weight decay, another optimizer, learning rate, batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_gradguard.fixes.change import Change, Changes, recorded


class SwitchedOptimizer(NamedTuple):
    """The new optimizer and what changed."""

    optimizer: Optimizer
    changes: Changes


class RebatchedLoader(NamedTuple):
    """The new loader and what changed."""

    loader: DataLoader[Any]
    changes: Changes


def set_weight_decay(optimizer: Optimizer, value: float) -> Changes:
    """Sets the weight decay of every parameter group, which limits the growth of weights.

    The optimizer adds `value · w` to each gradient (SGD, Adam), or shrinks w directly (AdamW). A penalty of `α‖W‖²` in
    the loss corresponds to `value = 2α`.

    Args:
        optimizer: Any optimizer with a `weight_decay` in its groups.
        value: At least 0; 1e-4 to 5e-4 are common with SGD, 1e-2 with AdamW.

    Returns:
        One change for each group that had another value.

    Raises:
        ValueError: If `value` is negative, or the optimizer has no weight decay.
        NothingToChange: If every group has this value already.

    Example:
        >>> import torch
        >>> print(*set_weight_decay(torch.optim.SGD([torch.zeros(1)], lr=0.1), 1e-3))
        param_groups.0: weight_decay 0 -> weight_decay 0.001

    References:
        Krogh and Hertz 1991; Loshchilov and Hutter 2019, arXiv 1711.05101.
    """
    if value < 0:
        raise ValueError(f"`set_weight_decay(value=...)` must not be negative, got {value!r}.")
    if any("weight_decay" not in group for group in optimizer.param_groups):
        raise ValueError(
            "`set_weight_decay(optimizer)` needs an optimizer with `weight_decay` in its groups; "
            f"{type(optimizer).__name__} has no weight_decay."
        )
    return _set(optimizer, "weight_decay", lambda _: value, f"set_weight_decay(optimizer, {value:g})")


def scale_lr(optimizer: Optimizer, factor: float) -> Changes:
    """Multiplies the learning rate of every parameter group: up for vanishing gradients, down for exploding ones.

    A scheduler keeps the learning rate that it was created with, so create it afterwards.

    Args:
        optimizer: Any optimizer.
        factor: Positive and not 1. A usual search tries powers of ten.

    Returns:
        One change for each group.

    Raises:
        ValueError: If `factor` is not positive.
        NothingToChange: If `factor` is 1.

    Example:
        >>> import torch
        >>> print(*scale_lr(torch.optim.SGD([torch.zeros(1)], lr=0.1), 0.1))
        param_groups.0: lr 0.1 -> lr 0.01
    """
    if factor <= 0:
        raise ValueError(f"`scale_lr(factor=...)` must be positive, got {factor!r}.")
    return _set(optimizer, "lr", lambda lr: lr * factor, f"scale_lr(optimizer, {factor:g})")


def _set(optimizer: Optimizer, key: str, new: Callable[[Any], Any], call: str) -> Changes:
    changes = []
    for position, group in enumerate(optimizer.param_groups):
        before, after = group[key], new(group[key])
        if before != after:
            group[key] = after
            changes.append(
                Change(f"param_groups.{position}", f"{key} {float(before):.3g}", f"{key} {float(after):.3g}")
            )
    return recorded(changes, call, f"parameter groups with another {key}")


def switch_optimizer(optimizer: Optimizer, new: type[Optimizer], **settings: Any) -> SwitchedOptimizer:
    """Creates another optimizer for the same parameter groups, such as Adam, whose steps hardly depend on scale.

    Its state (momentum, moments) starts empty. A group's weight decay is kept where the new optimizer has one.

    Args:
        optimizer: The optimizer to replace; it is not changed.
        new: `torch.optim.Adam`, `torch.optim.Adagrad`, ...
        settings: Arguments of `new`, such as `lr=1e-3`.

    Returns:
        The new optimizer, and one change for each group.

    Raises:
        NothingToChange: If it is the same class with the same settings.

    Example:
        >>> import torch
        >>> old = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> print(*switch_optimizer(old, torch.optim.Adam, lr=1e-3).changes)
        param_groups.0: SGD, lr 0.1 -> Adam, lr 0.001

    References:
        Duchi, Hazan and Singer 2011 (Adagrad); Kingma and Ba 2015, arXiv 1412.6980 (Adam).
    """
    groups = [{"params": group["params"]} for group in optimizer.param_groups]
    made = new(groups, **settings)
    changes = []
    for position, (old, fresh) in enumerate(zip(optimizer.param_groups, made.param_groups, strict=True)):
        if "weight_decay" in fresh and "weight_decay" not in settings and old.get("weight_decay"):
            fresh["weight_decay"] = old["weight_decay"]
        names = [f"{type(o).__name__}, lr {g['lr']:.3g}" for o, g in ((optimizer, old), (made, fresh))]
        same = type(made) is type(optimizer) and all(old.get(k) == v for k, v in fresh.items() if k != "params")
        changes += [] if same else [Change(f"param_groups.{position}", *names)]
    call = f"switch_optimizer(optimizer, {new.__name__})"
    return SwitchedOptimizer(made, recorded(changes, call, "an optimizer of another class or with other settings"))


def set_batch_size(loader: DataLoader[Any], batch_size: int) -> RebatchedLoader:
    """Creates the same data loader with another batch size; order, workers and all other settings stay the same.

    Args:
        loader: A loader with automatic batching.
        batch_size: Samples in a batch, at least 1.

    Returns:
        The new loader, and the change.

    Raises:
        ValueError: If `batch_size` is below 1, or the loader was created with a batch sampler.
        NothingToChange: If it has that batch size already.

    Example:
        >>> loader = DataLoader(range(10), batch_size=1)
        >>> rebatched = set_batch_size(loader, 5)
        >>> print(*rebatched.changes, len(rebatched.loader))
        loader: batch size 1 -> batch size 5 2
    """
    if batch_size < 1:
        raise ValueError(f"`set_batch_size(batch_size=...)` must be at least 1, got {batch_size!r}.")
    if loader.batch_size is None:
        raise ValueError(
            "`set_batch_size(loader)` needs a loader with automatic batching; this one has a batch sampler. Change the "
            "sampler instead."
        )
    differs = [Change("loader", f"batch size {loader.batch_size}", f"batch size {batch_size}")]
    changes = recorded(differs if loader.batch_size != batch_size else [], "set_batch_size(loader)", "another size")
    kept = "num_workers collate_fn pin_memory drop_last timeout worker_init_fn multiprocessing_context generator"
    settings = {name: getattr(loader, name) for name in kept.split()}
    settings |= {"prefetch_factor": loader.prefetch_factor, "persistent_workers": loader.persistent_workers}
    return RebatchedLoader(DataLoader(loader.dataset, batch_size, sampler=loader.sampler, **settings), changes)


def decay_rate(group: dict[str, Any], scale: float) -> float:
    """Share of a weight that a weight decay of 1 removes in one step; 0 for a group without a learning rate."""
    return usual_lr(group) * scale / max(1 - float(group.get("momentum", 0.0)), 1e-3) if "lr" in group else 0.0


def usual_lr(group: dict[str, Any]) -> float:
    """A group's learning rate at the start of its schedule, if it has one, which may be almost at its end."""
    return float(group.get("initial_lr", group["lr"]))
