"""COLLECT: which parameters form a layer, and the name of each layer.

A *layer* is a module that owns parameters directly: `encoder.0.linear` stands for its weight and bias together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gradguard.tensors.norms import Floats

#: Parts that wrappers add to the names of parameters; removed before a user sees a name.
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: Wrappers that store the inner module as `module`. A user's module may have that name too, so the type decides.
REPLICATING = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of one optimizer, in registration order; constant during training.

    Args:
        names: Name of each layer, `[L]`.
        numel: Number of trainable elements in each layer, `[L]`.
        matrix: Whether the layer has a weight of two or more dimensions, `[L]`; only these count for the depth.
        types: Class names of the layers and of the modules that contain them, by path, as far as known.
    """

    names: tuple[str, ...]
    numel: NDArray[np.int64]
    matrix: NDArray[np.bool_]
    types: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def half_log_numel(self) -> Floats:
        """Log10 of the square root of `numel`, `[L]`: the difference between log10 of an L2 norm and of the RMS."""
        return np.asarray(0.5 * np.log10(self.numel))

    @cached_property
    def deep(self) -> tuple[NDArray[np.intp], Floats]:
        """Positions of the layers with a weight matrix, `[M]`, and their `slope_weights`, `[M]`."""
        places = np.flatnonzero(self.matrix)
        return places, slope_weights(len(places))

    def pick(self, mask: NDArray[np.bool_], by: Floats | None = None) -> tuple[str, ...]:
        """Names of the layers where `mask` is true, sorted by decreasing `by` when it is given."""
        where = np.flatnonzero(mask)
        if by is not None:
            where = where[np.argsort(-by[where], kind="stable")]
        return tuple(self.names[i] for i in where)


def slope_weights(count: int) -> Floats:
    """Weights whose dot product with `count` equally spaced values is their least-squares slope.

    Example:
        >>> slope_weights(3)
        array([-0.5,  0. ,  0.5])
    """
    depth = np.arange(count) - 0.5 * (count - 1)
    return np.asarray(depth / max(float(np.dot(depth, depth)), 1e-30))


def clean_name(name: str) -> str:
    """A parameter's or module's name without the parts that `torch.compile`, FSDP and checkpointing add.

    Example:
        >>> clean_name("net._orig_mod.0.weight")
        'net.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def clean_paths(module: nn.Module) -> dict[str, str]:
    """For the path of every submodule the path without wrappers, DataParallel and DDP included.

    Example:
        >>> wrapped = nn.Sequential(nn.DataParallel(nn.Sequential(nn.Linear(1, 1))))
        >>> clean_paths(wrapped)["0.module.0"]
        '0.0'
    """
    inner = {f"{path}.module".lstrip(".") for path, m in module.named_modules() if isinstance(m, REPLICATING)}
    clean = {"": ""}
    for path, _ in module.named_modules():
        above, _, last = path.rpartition(".")
        hidden = path in inner or last in WRAPPERS
        clean[path] = clean[above] if hidden else f"{clean[above]}.{last}".lstrip(".")
    return clean


def clean_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """`module.named_parameters()` with clean names."""
    clean = clean_paths(module)
    for name, p in module.named_parameters():
        path, _, last = name.rpartition(".")
        yield f"{clean[path]}.{last}".lstrip("."), p


def module_types(module: nn.Module) -> dict[str, str]:
    """The class name of every submodule by its path without wrappers, whose names are left out.

    Example:
        >>> module_types(nn.Sequential(nn.Linear(1, 1)))
        {'': 'Sequential', '0': 'Linear'}
    """
    clean = clean_paths(module)
    return {clean[path]: type(part).__name__ for path, part in module.named_modules()}  # what is wrapped comes later


class ParamTable:
    """The parameters of one optimizer, grouped by layer; built once and read at every step.

    Args:
        named_parameters: All names and parameters of the module, in registration order.
        owned: The optimizer's parameters; others are ignored, so that the optimizers of a GAN are kept apart.
        shapes: Full shapes of the tensors that a parameter holds (it may be sharded); by default its own shape.
        types: The module's `module_types`.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        owned: Sequence[Tensor],
        shapes: Callable[[Tensor], Sequence[torch.Size]] = lambda p: (p.shape,),
        types: Mapping[str, str] | None = None,
    ) -> None:
        mine = {id(p) for p in owned}
        named = [(clean_name(n), p) for n, p in named_parameters if id(p) in mine]
        known = {id(p) for _, p in named}
        named += [(f"param_{i}", p) for i, p in enumerate(owned) if id(p) not in known]
        position: dict[str, int] = {}
        self.owned_count = len(owned)
        self.names, self.params = [n for n, _ in named], [p for _, p in named]
        self.layer_of = np.array([position.setdefault(layer_name(n), len(position)) for n, _ in named], dtype=np.intp)
        numel, matrix = np.zeros(len(position), np.int64), np.zeros(len(position), bool)
        self.filled = [any(shape.numel() for shape in shapes(p)) for p in self.params]
        for i, p in zip(self.layer_of, self.params, strict=True):
            numel[i] += sum(shape.numel() for shape in shapes(p))
            matrix[i] |= any(len(shape) >= 2 for shape in shapes(p))
        paths = {path for name in position for path in (name, *parents(name))}
        known_types = {path: name for path, name in (types or {}).items() if path in paths}
        self.layers = Layers(tuple(position), np.maximum(numel, 1), matrix, known_types)

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters with the names of their layers."""
        return ((self.layers.names[i], p) for i, p in zip(self.layer_of, self.params, strict=True))

    def trainable(self) -> NDArray[np.bool_]:
        """Which layers have a parameter that is neither frozen nor empty, `[L]`."""
        free = [p.requires_grad and filled for p, filled in zip(self.params, self.filled, strict=True)]
        return np.bincount(self.layer_of, free, minlength=len(self.layers)) > 0

    def per_layer(self, norms: Floats, scale: float = 1.0) -> Floats:
        """Norms of layers `[L]` from norms of tensors `[T]`, divided by a GradScaler's `scale`; cannot overflow."""
        peak = float(np.maximum.reduce(norms, initial=0.0))
        unit = peak if math.isfinite(peak) and not 1e-100 < peak < 1e100 else 1.0  # squares stay within float64
        if peak == 0.0:
            return np.zeros(len(self.layers))
        parts = norms if unit == 1.0 else norms / unit
        whole = np.sqrt(np.bincount(self.layer_of, parts * parts, minlength=len(self.layers)))
        return whole if unit == scale else np.asarray(whole * (unit / scale))


def parents(name: str) -> Iterator[str]:
    """The modules that contain a layer, innermost first.

    Example:
        >>> list(parents("encoder.layer.0"))
        ['encoder.layer', 'encoder']
    """
    while name := name.rpartition(".")[0]:
        yield name


def layer_name(parameter: str) -> str:
    """Name of the layer that a parameter belongs to.

    Example:
        >>> layer_name("encoder.0.weight"), layer_name("scale")
        ('encoder.0', 'scale')
    """
    return parameter.rpartition(".")[0] or parameter
