"""Input normalization with statistics of the training data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradguard.fixes.change import Change, Changes, recorded
from lightning_gradguard.modules.surgery import replace_module
from lightning_gradguard.modules.tracing import call, eval_mode, trace


class Standardize(nn.Module):
    """`(x - mean) / std` with fixed statistics. They are buffers, so every checkpoint has them.

    Args:
        mean: What is subtracted, broadcast against the input.
        std: What the difference is divided by.

    Example:
        >>> Standardize(torch.tensor([10.0]), torch.tensor([2.0]))(torch.tensor([14.0]))
        tensor([2.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """The standardized input, in the dtype of the statistics."""
        return (x - self.mean) / self.std


def normalize_inputs(model: nn.Module, batches: Iterable[Any], *, layer: str | None = None) -> Changes:
    """Standardizes the input of the model's first layer with statistics of the training data, in place.

    The layer becomes `nn.Sequential(Standardize, layer)`. The features of a Linear and the channels of a convolution
    get mean 0 and standard deviation 1; a constant feature only gets mean 0. No parameter is added, so an existing
    optimizer stays valid.

    Args:
        model: Any module.
        batches: Training batches, such as the train loader. A batch is a tensor, or a sequence whose first item is the
            model's input. All of them are read once.
        layer: Name of the layer whose input is standardized. None, the default, takes the first layer that runs.

    Returns:
        One change, with the largest absolute mean and the range of standard deviations before.

    Raises:
        ValueError: If there is no batch, or the layer's input is not floating-point (an embedding).
        NothingToChange: If the inputs are standardized already: means below 0.01, deviations within 1 % of 1.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> data = torch.randn(1000, 2) * torch.tensor([1.0, 300.0]) + torch.tensor([0.0, 1000.0])
        >>> print(*normalize_inputs(net, data.split(100)))
        0: mean up to 1.01e+03, std 1.04 to 310 -> mean 0, std 1

    References:
        LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp", section 4.3.
    """
    features, name = _moments(model, batches, layer)
    if features is None:
        raise ValueError("`normalize_inputs(batches=...)` must contain at least one batch, got none.")
    mean, std = features
    known = f"mean up to {float(mean.abs().max()):.3g}, std {float(std.min()):.3g} to {float(std.max()):.3g}"
    done = bool((mean.abs() < 0.01).all() and ((std - 1).abs() < 0.01).all())
    changes = [] if done else [Change(name, known, "mean 0, std 1")]
    recorded(changes, "normalize_inputs(model)", "inputs that are not standardized already")
    old = model.get_submodule(name)
    shape = (-1, *(1 for _ in range(_spatial(old)))) if _spatial(old) else (-1,)
    weight = next(old.parameters())
    scale = torch.where(std > 0, std, torch.ones_like(std))
    fresh = Standardize(mean.reshape(shape), scale.reshape(shape)).to(weight.device, weight.dtype)
    replace_module(model, name, nn.Sequential(fresh, old))
    return tuple(changes)


def _spatial(layer: nn.Module) -> int:
    """Number of dimensions after the channels; 0 when the features are the last dimension."""
    dims = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}
    return next((count for count, kinds in dims.items() if isinstance(layer, kinds)), 0)


def _moments(model: nn.Module, batches: Iterable[Any], layer: str | None) -> tuple[tuple[Tensor, Tensor] | None, str]:
    """Mean and standard deviation of each input feature, float64 on the CPU, and the name of the layer."""
    rows: list[Tensor] = []
    name = layer or ""

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        value = args[0]
        if not value.is_floating_point():
            raise ValueError(
                f"`normalize_inputs(model)` needs floating-point features, but {name!r} receives {value.dtype}. "
                "Name a later layer with `layer=...`."
            )
        wide = value.detach().double().cpu()
        wide = wide.movedim(1, -1) if _spatial(module) else wide
        flat = wide.reshape(-1, wide.shape[-1])
        rows.append(torch.stack([torch.full_like(flat[0], len(flat)), flat.sum(0), (flat - flat[0]).square().sum(0)]))
        firsts.append(flat[0])

    firsts: list[Tensor] = []
    hook = None
    device = next(model.parameters()).device
    try:
        for batch in batches:
            inputs = (batch if isinstance(batch, Tensor) else batch[0]).to(device)
            if hook is None:
                name = layer or next(iter(trace(model, inputs).layers))
                hook = model.get_submodule(name).register_forward_pre_hook(note)
            with torch.no_grad(), eval_mode(model):
                call(model, inputs)
    finally:
        if hook is not None:
            hook.remove()
    return _combined(rows, firsts), name


def _combined(rows: list[Tensor], firsts: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation from each batch's count, sum and squares about its first row, without cancellation."""
    if not rows:
        return None
    count, total, squares = torch.stack(rows).unbind(1)
    first = torch.stack(firsts)
    mean = total.sum(0) / count.sum(0)
    centered = squares - count * (total / count - first).square()  # squares about the batch's own mean
    spread = centered.clamp(min=0).sum(0) + (count * (total / count - mean).square()).sum(0)
    return mean, (spread / count.sum(0)).sqrt()
