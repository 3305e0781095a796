"""Normalization inside the model: BatchNorm, LayerNorm, and the position of LayerNorm in a transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from lightning_gradguard.fixes.change import Change, Changes, recorded
from lightning_gradguard.modules.surgery import match_model, replace_module
from lightning_gradguard.modules.tracing import ActivationCall, LayerCall, trace

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def add_batch_norm(model: nn.Module, example: Any, *, before: bool = True) -> Changes:
    """Inserts a BatchNorm between each hidden layer and its activation, or after the activation.

    The layer becomes `nn.Sequential(layer, norm)`: its parameters stay the same objects, and their names get one
    level deeper. BatchNorm adds parameters, so insert it before you create the optimizer. It needs batches of more
    than a few samples; for smaller ones use `add_layer_norm`.

    Args:
        model: Any module whose hidden layers are Linear or convolutions.
        example: What the model is called with, as in `trace`.
        before: Before the activation, as in Ioffe and Szegedy 2015. False inserts it after, which needs activations
            that are modules and not shared.

    Returns:
        One change for each layer.

    Raises:
        ValueError: If a layer is called twice and would share running statistics; if a Linear is applied to
            sequences; or, with `before=False`, if the activation is a function call, a gate or shared. Nothing has
            been changed.
        NothingToChange: If no layer is followed by a hidden activation.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        >>> print(*add_batch_norm(net, torch.zeros(1, 1, 3, 3)))
        0: Conv2d, relu -> Conv2d, BatchNorm2d, relu

    References:
        Ioffe and Szegedy 2015, arXiv 1502.03167.
    """
    return _add(model, example, _batch_norm, "add_batch_norm", before)


def add_layer_norm(model: nn.Module, example: Any, *, before: bool = True) -> Changes:
    """Inserts a LayerNorm between each hidden layer and its activation, or after it; for small batches and sequences.

    Convolutions get `GroupNorm(1, channels)`, which normalizes over channels and positions.

    Args:
        model: As in `add_batch_norm`.
        example: As in `add_batch_norm`.
        before: As in `add_batch_norm`.

    Returns:
        One change for each layer.

    Raises:
        ValueError: As in `add_batch_norm`, except that sequences are allowed.
        NothingToChange: If no layer is followed by a hidden activation.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> print(*add_layer_norm(net, torch.zeros(1, 4), before=False))
        0: Linear, tanh -> Linear, tanh, LayerNorm

    References:
        Ba, Kiros and Hinton 2016, arXiv 1607.06450.
    """
    return _add(model, example, _layer_norm, "add_layer_norm", before)


def pre_norm(model: nn.Module) -> Changes:
    """Moves LayerNorm into the residual branch of every transformer layer, which then needs no warmup.

    Works on `nn.TransformerEncoderLayer` and `nn.TransformerDecoderLayer`. An `nn.TransformerEncoder` or
    `nn.TransformerDecoder` without a final norm gets one; otherwise its output would not be normalized.

    Args:
        model: A module that contains such layers.

    Returns:
        One change for each layer, and for each final norm.

    Raises:
        NothingToChange: If there is no such layer with its norm after the addition.

    Example:
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> print(*pre_norm(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)), sep="; ")
        layers.0: post-LN -> pre-LN; norm: None -> LayerNorm(8)

    References:
        Xiong et al. 2020, "On layer normalization in the transformer architecture", arXiv 2002.04745.
    """
    changes = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)) and not module.norm_first:
            module.norm_first = True
            changes.append(Change(name, "post-LN", "pre-LN"))
    for name, module in list(model.named_modules()) if changes else ():
        if isinstance(module, (nn.TransformerEncoder, nn.TransformerDecoder)) and module.norm is None:
            width = module.layers[0].norm1.normalized_shape[0]
            module.norm = match_model(nn.LayerNorm(width), module)
            changes.append(Change(f"{name}.norm".lstrip("."), "None", f"LayerNorm({width})"))
    return recorded(changes, "pre_norm(model)", "torch's transformer layers with norm_first=False")


def _batch_norm(layer: Any, call: LayerCall) -> nn.Module:
    if isinstance(layer, nn.Linear):
        if len(call.output_shape) != 2:
            raise ValueError(
                f"`add_batch_norm(model)` cannot normalize {call.name!r}: its output has shape {call.output_shape}, "
                "a sequence instead of a batch of features. Use `add_layer_norm`."
            )
        return nn.BatchNorm1d(layer.out_features)
    kinds = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    return kinds[len(call.output_shape)](layer.out_channels)


def _layer_norm(layer: Any, call: LayerCall) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.LayerNorm(layer.out_features)
    return nn.GroupNorm(1, layer.out_channels)


def _add(
    model: nn.Module, example: Any, make: Callable[[Any, LayerCall], nn.Module], call: str, before: bool
) -> Changes:
    changes = []
    for layer, activation, norm in list(_planned(model, example, make, call, before)):
        kind, title = type(model.get_submodule(layer.name)).__name__, type(norm).__name__
        target = layer.name if before else activation.owner
        replace_module(model, target, nn.Sequential(model.get_submodule(target), match_model(norm, model)))
        order = [kind, title, activation.kind] if before else [kind, activation.kind, title]
        changes.append(Change(layer.name, f"{kind}, {activation.kind}", ", ".join(order)))
    return recorded(changes, f"{call}(model)", "Linear or convolution layers followed by a hidden activation")


def _planned(
    model: nn.Module, example: Any, make: Callable[[Any, LayerCall], nn.Module], call: str, before: bool
) -> Iterator[tuple[LayerCall, ActivationCall, nn.Module]]:
    """Each layer with its activation and its norm. Every error is raised before anything is changed."""
    seen = trace(model, example)
    used = [activation.owner for activation in seen.activations]
    for layer in seen.layers.values():
        module, activation = model.get_submodule(layer.name), seen.activation_of(layer.name)
        if activation is None or not activation.hidden or not isinstance(module, (nn.Linear, *_CONV)):
            continue
        if layer.calls > 1:
            raise ValueError(
                f"`{call}(model)` cannot normalize {layer.name!r}: it is called {layer.calls} times. Give each call a "
                "layer of its own."
            )
        if not before and (not activation.module or used.count(activation.owner) > 1):
            raise ValueError(
                f"`{call}(before=False)` needs an activation module after {layer.name!r} that is not shared; the one "
                f"called at {activation.where} is shared, a function or a gate. Use `before=True`, or give the layer "
                "an activation module of its own."
            )
        yield layer, activation, make(module, layer)
