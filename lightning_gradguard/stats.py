"""COLLECT: the norms of the gradients that an optimizer is about to use.

A *layer* is a module that owns parameters itself: `encoder.0.linear` stands for its weight and bias together.
Statistics are small float64 numpy arrays on the host, one entry per layer in registration order, so that everything
after `collect` is pure arithmetic on plain values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gradguard.progress import UNTOLD, Progress

if TYPE_CHECKING:
    from lightning_gradguard.batch_look import BatchLook
    from lightning_gradguard.probes import Probe

Floats = NDArray[np.float64]

#: On a CPU the norms of so many tensors of so few elements are worked out together. Chosen.
MANY, SMALL = 256, 1024
#: What wrappers put into the names of parameters; users never see it.
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: Wrappers that call the inner module `module`, which a user may do as well: told by their type.
REPLICATING = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass(frozen=True, eq=False)
class Layers:
    """What does not change while training: the layers of one optimizer, in registration order.

    Args:
        names: Name of each layer, `[L]`.
        numel: Number of trainable elements in each layer, `[L]`.
        matrix: Whether the layer has a weight of two or more dimensions, `[L]`; only these have a place in depth.
    """

    names: tuple[str, ...]
    numel: NDArray[np.int64]
    matrix: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def half_log_numel(self) -> Floats:
        """Log10 of the root of `numel`, `[L]`: what log10 of an L2 norm exceeds that of the RMS by."""
        return np.asarray(0.5 * np.log10(self.numel))

    @cached_property
    def deep(self) -> tuple[NDArray[np.intp], Floats]:
        """Where the matrix layers are, `[M]`, and the weights `[M]` whose dot product with values is their slope."""
        places = np.flatnonzero(self.matrix)
        return places, slope_weights(len(places))

    def pick(self, mask: NDArray[np.bool_], by: Floats | None = None) -> tuple[str, ...]:
        """Names where `mask` is true; the largest `by` first when it is given."""
        where = np.flatnonzero(mask)
        if by is not None:
            where = where[np.argsort(-by[where], kind="stable")]
        return tuple(self.names[i] for i in where)


@dataclass(frozen=True, eq=False)
class GradStats:
    """What one optimizer step is about to use, measured before any clipping.

    Args:
        step: Optimizer step of this fit, counted from 0.
        layers: The layers, `[L]`.
        grad_norm: L2 norm of each layer's gradient, `[L]`; 0 where it received none, NaN or inf where not finite.
        loss: Mean training loss of the step's batches; None when the loop showed none.
        lr: Largest learning rate the step will use, after any reduction by the guard.
        overflow: A GradScaler will skip this step by itself: routine under fp16, not a symptom.
        adversarial: Whether other optimizers work on the same module, so that this loss is no objective (a GAN).
        restored: Whether a rollback has just put these weights back: a symptom now is the data's, not theirs.
        buffers: Names of the float buffers that training changes (BatchNorm statistics), `[B]`.
        buffer_norm: Their L2 norms, `[B]`.
        param_norm: L2 norm of each layer's parameters before the last update, `[L]`; comes with `update_ratio`.
        update_ratio: Norm of the last update over `param_norm`, `[L]`; only on the step after a sampled one.
        trainable: Which layers have a parameter that may change (not frozen, not empty), `[L]`; comes with
            `update_ratio`.
        probe: A look inside the batch (see `probes`); only on sampled steps.
        budget: Optimizer steps that the run is meant to take; None when it has no end.
        progress: What the losses up to this one say about the run.
        batch: The samples of the batch; only on steps that a detector finds suspicious (see `wants_batch`).

    Example:
        >>> stats = GradStats.of({"net.0": 3.0, "net.2": 4.0}, step=5, loss=0.7)
        >>> stats.global_norm
        5.0
    """

    step: int
    layers: Layers
    grad_norm: Floats
    loss: float | None = None
    lr: float = math.nan
    overflow: bool = False
    adversarial: bool = False
    restored: bool = False
    buffers: tuple[str, ...] = ()
    buffer_norm: Floats = field(default_factory=lambda: np.empty(0))
    param_norm: Floats | None = None
    update_ratio: Floats | None = None
    trainable: NDArray[np.bool_] | None = None
    probe: Probe | None = None
    budget: int | None = None
    progress: Progress = UNTOLD
    batch: BatchLook | None = None

    @classmethod
    def of(cls, grad_norm: Mapping[str, float], *, numel: int = 1, **fields: Any) -> GradStats:
        """Statistics written by hand, for tests and examples: every layer is a matrix of `numel` elements."""
        count = len(grad_norm)
        layers = Layers(tuple(grad_norm), np.full(count, numel), np.ones(count, bool))
        return cls(**{"step": 0, **fields}, layers=layers, grad_norm=np.array(list(grad_norm.values()), float))

    @cached_property
    def finite(self) -> bool:
        """Whether every gradient is finite."""
        return math.isfinite(self.global_norm) or bool(np.isfinite(self.grad_norm).all())

    @cached_property
    def loss_finite(self) -> bool:
        """Whether the loss is finite; an unknown loss counts as finite."""
        return self.loss is None or math.isfinite(self.loss)

    @cached_property
    def clean(self) -> bool:
        """Whether loss and gradients are finite, so that the step may enter a baseline."""
        return self.finite and self.loss_finite and not self.overflow

    @cached_property
    def occasion(self) -> bool:
        """Whether there is more to see than in every step: a look inside, a sample of the weights, or a hurt run."""
        return self.probe is not None or self.update_ratio is not None or self.progress.hurt

    @cached_property
    def global_norm(self) -> float:
        """L2 norm of all gradients as one vector; NaN where one is not finite."""
        norm = math.hypot(*self.grad_norm.tolist())
        return norm if math.isfinite(norm) or np.isfinite(self.grad_norm).all() else math.nan

    @cached_property
    def global_update_ratio(self) -> float:
        """Norm of the last sampled update of all layers over that of their parameters; NaN when not sampled."""
        if self.update_ratio is None or self.param_norm is None:
            return math.nan
        weight = float(np.linalg.norm(self.param_norm))
        return float(np.linalg.norm(self.update_ratio * self.param_norm)) / weight if weight else math.nan

    @cached_property
    def log_rms(self) -> Floats:
        """Log10 of each layer's root-mean-square gradient, `[L]`; -inf where the gradient is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log10(self.grad_norm) - self.layers.half_log_numel)

    @cached_property
    def depth_slope(self) -> float:
        """Decades of RMS gradient gained per layer from input to output; NaN with fewer than three matrix layers.

        Positive when gradients vanish on their way back to the input, negative when they explode.
        """
        places, weights = self.layers.deep
        if len(places) < 3:
            return math.nan
        heights = self.log_rms[places]
        slope = float(np.dot(weights, heights))
        if math.isfinite(slope):
            return slope
        usable = heights[np.isfinite(heights)]
        return float(np.dot(slope_weights(len(usable)), usable)) if len(usable) >= 3 else math.nan


def slope_weights(count: int) -> Floats:
    """Weights whose dot product with `count` values is their least-squares slope.

    Example:
        >>> slope_weights(3)
        array([-0.5,  0. ,  0.5])
    """
    depth = np.arange(count) - 0.5 * (count - 1)
    return np.asarray(depth / max(float(np.dot(depth, depth)), 1e-30))


def clean_name(name: str) -> str:
    """A parameter's or module's name without what `torch.compile`, FSDP and activation checkpointing put into it.

    Example:
        >>> clean_name("net._orig_mod.0.weight")
        'net.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def clean_paths(module: nn.Module) -> dict[str, str]:
    """Path of every submodule -> the path without wrappers, also those whose inner module is called `module`.

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


class ParamTable:
    """The trainable parameters of one optimizer, grouped by layer: built once, read at every step.

    Args:
        named_parameters: All names and parameters of the module, in registration order.
        owned: The optimizer's parameters; others are ignored, so that a GAN's two optimizers never mix.
        shapes: Shapes of the whole tensors behind a parameter; its own by default.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        owned: Sequence[Tensor],
        shapes: Callable[[Tensor], Sequence[torch.Size]] = lambda p: (p.shape,),
    ) -> None:
        mine = {id(p) for p in owned}
        named = [(clean_name(n), p) for n, p in named_parameters if id(p) in mine]
        known = {id(p) for _, p in named}
        named += [(f"param_{i}", p) for i, p in enumerate(owned) if id(p) not in known]
        position: dict[str, int] = {}
        self.owned_count = len(owned)
        self.params = [p for _, p in named]
        self.layer_of = np.array([position.setdefault(layer_name(n), len(position)) for n, _ in named], dtype=np.intp)
        numel, matrix = np.zeros(len(position), np.int64), np.zeros(len(position), bool)
        self.filled = [any(shape.numel() for shape in shapes(p)) for p in self.params]
        for i, p in zip(self.layer_of, self.params, strict=True):
            numel[i] += sum(shape.numel() for shape in shapes(p))
            matrix[i] |= any(len(shape) >= 2 for shape in shapes(p))
        self.layers = Layers(tuple(position), np.maximum(numel, 1), matrix)

    def trainable(self) -> NDArray[np.bool_]:
        """Which layers have a parameter that is neither frozen nor empty at present, `[L]`."""
        free = [p.requires_grad and filled for p, filled in zip(self.params, self.filled, strict=True)]
        return np.bincount(self.layer_of, free, minlength=len(self.layers)) > 0

    def per_layer(self, norms: Floats, scale: float = 1.0) -> Floats:
        """Norms of tensors `[T]` to norms of layers `[L]`, without overflow; `scale` is divided out."""
        peak = float(np.maximum.reduce(norms, initial=0.0))
        unit = peak if math.isfinite(peak) and not 1e-100 < peak < 1e100 else 1.0  # squares stay within float64
        if peak == 0.0:
            return np.zeros(len(self.layers))
        parts = norms if unit == 1.0 else norms / unit
        whole = np.sqrt(np.bincount(self.layer_of, parts * parts, minlength=len(self.layers)))
        return whole if unit == scale else np.asarray(whole * (unit / scale))


def layer_name(parameter: str) -> str:
    """The layer that a parameter belongs to.

    Example:
        >>> layer_name("encoder.0.weight"), layer_name("scale")
        ('encoder.0', 'scale')
    """
    return parameter.rpartition(".")[0] or parameter


@torch.no_grad()
def read_norms(
    tensors: Sequence[Tensor | None], extra: Sequence[Tensor] = (), scale: float = 1.0
) -> tuple[Floats, Floats]:
    """L2 norms of `tensors` and the values of the 0-d tensors `extra`, in one pass and one transfer to the host.

    A norm that overflows fp32 while its tensor is finite comes out right, so that inf or NaN in the result means
    inf or NaN in the tensor.

    Args:
        tensors: Gradients, parameters or buffers of any float dtype and layout; None counts as zero.
        extra: Scalars that ride on the same transfer, e.g. the losses.
        scale: What the tensors are multiplied by, e.g. a GradScaler's scale; divided out.

    Returns:
        Norms `[T]` and extra values `[E]`, float64.

    Example:
        >>> read_norms([torch.full((4,), 2.0**100), None, torch.tensor([3.0, 4.0])])[0]
        array([2.5353012e+30, 0.0000000e+00, 5.0000000e+00])
    """
    present = [t for t in tensors if t is not None]
    swarm, shared = norms_of_many(present)
    rest = present if shared is None else list(compress(present, ~swarm))
    column = [*norms_of(rest), *(value.reshape(()) for value in extra)]
    read = to_host(column)
    sound = shared is None and math.isfinite(sum(read[: len(rest)]))
    norms, values = np.array(read[: len(rest)]), np.array(read[len(rest) :])
    if shared is not None:
        one_by_one, norms = norms, np.empty(len(present))
        norms[~swarm], norms[swarm] = one_by_one, shared
    if not sound:
        for i in np.flatnonzero(~np.isfinite(norms)):
            norms[i] = unbounded_norm(present[i])
    if scale != 1.0:
        norms /= scale
    if len(present) == len(tensors):
        return norms, values
    full = np.zeros(len(tensors))
    full[[i for i, t in enumerate(tensors) if t is not None]] = norms
    return full, values


def to_host(scalars: Sequence[Tensor]) -> list[float]:
    """The values of 0-d tensors: one by one where that is a mere look, else `in_one_transfer`."""
    return [value.item() for value in scalars] if not scalars or scalars[0].is_cpu else in_one_transfer(scalars)


def in_one_transfer(scalars: Sequence[Tensor]) -> list[float]:
    """The values of 0-d tensors by way of the first one's device."""
    device, dtype = scalars[0].device, scalars[0].dtype
    return torch.stack([value.to(device, dtype) for value in scalars]).tolist()


def norms_of_many(tensors: Sequence[Tensor]) -> tuple[NDArray[np.bool_], Floats | None]:
    """Which of `tensors` are small, and their L2 norms from one copy of them in float64; None where that is no gain.

    A call for each of very many small tensors costs more than reading them.
    """
    none = np.zeros(0, bool), None
    if len(tensors) < MANY or not tensors[0].is_cpu:
        return none
    sizes = np.array([t.numel() for t in tensors])
    small = (sizes > 0) & (sizes <= SMALL)
    chosen = list(compress(tensors, small))
    try:
        flat = torch._utils._flatten_dense_tensors(chosen) if len(chosen) >= MANY else None
    except (RuntimeError, TypeError, NotImplementedError):  # sparse layout, mixed devices
        return none
    if flat is None or flat.is_complex():
        return none
    values = flat.to(torch.float64).numpy()
    ends = np.cumsum(sizes[small])
    return small, np.sqrt(np.add.reduceat(values * values, [0, *ends[:-1]]))


@torch.no_grad()
def foreach_norm(tensors: list[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """L2 norm of each tensor as one vector `[T]`, in fp32 or better (or `dtype`), on the first tensor's device."""
    return torch.stack(norms_of(tensors, dtype)) if tensors else torch.zeros(0)


def norms_of(tensors: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """L2 norm of each tensor, 0-d, all of one type on the first tensor's device."""
    if not tensors:
        return []
    try:
        return list(torch._foreach_norm(tensors, 2, dtype=dtype or wide_dtype(tensors[0].dtype)))
    except (RuntimeError, TypeError, NotImplementedError):  # sparse or complex layout, mixed devices or precisions
        device = tensors[0].device
        norms = [torch.linalg.vector_norm(v, dtype=dtype or wide_dtype(v.dtype)) for v in map(real_values, tensors)]
        return [n.to(device, torch.promote_types(n.dtype, norms[0].dtype)) for n in norms]


def real_values(tensor: Tensor) -> Tensor:
    """The stored numbers of a sparse or complex tensor as a dense real one."""
    dense = tensor.coalesce().values() if tensor.is_sparse else tensor
    return torch.view_as_real(dense) if dense.is_complex() else dense


def unbounded_norm(tensor: Tensor) -> float:
    """L2 norm as a host float even where fp32 would overflow; inf or NaN only if the tensor holds one."""
    values = real_values(tensor)
    peak = float(torch.linalg.vector_norm(values, math.inf, dtype=wide_dtype(values.dtype)))
    if not math.isfinite(peak) or peak == 0.0:
        return peak
    return peak * float(torch.linalg.vector_norm(values.to(wide_dtype(values.dtype)) / peak))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything narrower is measured in float32."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
