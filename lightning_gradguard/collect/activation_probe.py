"""COLLECT: activation statistics of one training batch: through depth, of each unit, and through time.

A sample is taken from a batch that is trained on anyway. The probe watches the torch functions of one forward pass,
computes a few sums beside them, and asks autograd for the gradients that pass by. It changes nothing that it reads,
draws no random number, and calls no module twice except a fused recurrent one, whose gradient through time needs a
second, detached pass. So a healthy run that is sampled is bit-identical to one that is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.utils.hooks import RemovableHandle

from lightning_gradguard.collect.activation_stats import ActivationRecord, ActivationStats
from lightning_gradguard.collect.layers import clean_name, layer_name
from lightning_gradguard.collect.loss_calls import LossWatch
from lightning_gradguard.modules.activations import GATES, ActivationFunction, Traits, gate_traits
from lightning_gradguard.modules.tracing import CELLS, RECURRENT, ForwardTracer
from lightning_gradguard.tensors.norms import Floats


class ActivationProbe:
    """Samples a module's training batches, one forward and backward pass at a time.

    Args:
        module: The module in training.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> probe = ActivationProbe(net)
        >>> probe.open()
        >>> loss = net(torch.randn(16, 4)).square().mean()
        >>> probe.shut()
        >>> loss.backward()
        >>> stats = probe.read()
        >>> stats.layers, stats.activations[0].kind
        (('0', '2'), 'relu')
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._recorder: _TorchFunctionRecorder | None = None
        self._forward = ExitStack()  # holds the recorder while it watches

    @property
    def possible(self) -> bool:
        """Whether the module can be sampled. A compiled one cannot, nor one that FSDP1 has flattened."""
        return not any(is_compiled(m) or is_flattened(m) for m in self.module.modules())

    def open(self) -> None:
        """Starts a sample; to be called before the forward pass."""
        self.drop()
        self._recorder = self._forward.enter_context(_TorchFunctionRecorder(self.module))

    def shut(self) -> None:
        """Ends the forward part; to be called between forward and backward pass."""
        self._forward.close()
        if self._recorder is not None:
            self._recorder.passed = None
            self._recorder.loss_watch.forget()
            self._recorder.forget()

    def read(self) -> ActivationStats | None:
        """The sample, once the gradients are there; None when no layer ran."""
        self.shut()
        recorder, self._recorder = self._recorder, None
        return recorder.stats() if recorder is not None and recorder.layers else None

    def drop(self) -> None:
        """Ends a sample without reading it."""
        self.shut()
        if self._recorder is not None:
            self._recorder.remove()
        self._recorder = None


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` holds the module, or a function or method of its own."""
    parts = (*vars(module).values(), module.forward, getattr(module, "training_step", None))
    return isinstance(module, OptimizedModule) or any(hasattr(part, "_torchdynamo_orig_callable") for part in parts)


def is_flattened(module: nn.Module) -> bool:
    """Whether FSDP1 holds the module's parameters as one vector."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel

    return isinstance(module, FullyShardedDataParallel)


@dataclass
class _LayerSums:
    """Sums of one layer, still on the device."""

    rms: Tensor
    spread: Tensor
    identical_units: Tensor
    grad: Tensor | None = None


@dataclass
class _ActivationSums:
    """One activation, its sums still on the device. Flatness is not measured for a gate."""

    layer: str
    kind: str
    owner: str
    rows: int
    traits: Traits
    flat: Tensor | None = None
    dead: Tensor | None = None
    consumers: list[str] = field(default_factory=list)

    def record(self) -> ActivationRecord:
        """Everything on the host."""
        flat = 0.0 if self.flat is None else float(self.flat)
        dead = np.zeros(0, dtype=np.bool_) if self.dead is None else self.dead.cpu().numpy()
        consumers = tuple(dict.fromkeys(self.consumers))
        return ActivationRecord(self.layer, self.kind, flat, dead, self.rows, self.owner, consumers, self.traits)


@dataclass
class _Sequence:
    """A fused recurrent call: how to repeat it, and the gradients that reached its outputs."""

    layer: str
    again: Callable[[Tensor], Any]
    inputs: Tensor
    split: Callable[[Tensor], Iterable[Tensor]]
    grads: dict[int, Tensor] = field(default_factory=dict)


class _TorchFunctionRecorder(ForwardTracer):
    """Takes one sample. Layers are named as in `GradStats`; an activation belongs to the latest layer before it."""

    def __init__(self, module: nn.Module) -> None:
        named = list(module.named_parameters())
        super().__init__(
            modules={id(m): clean_name(n) for n, m in module.named_modules()},
            weights={id(p): layer_name(clean_name(n)) for n, p in named if p.ndim >= 2},
            vectors=frozenset(id(p) for _, p in named if p.ndim < 2),
        )
        self.layers: dict[str, _LayerSums] = {}
        self.activations: list[_ActivationSums] = []
        self.passed: tuple[Tensor, list[str]] | None = None  # the latest activation's output and its consumers
        self.inputs: tuple[Tensor, Tensor] | None = None
        self.sequences: list[_Sequence] = []
        self.cells: dict[str, dict[int, Tensor]] = {}
        self.latest, self.unit_dim, self.differentiable = "", -1, False  # of the latest layer
        self.last_input: Tensor | None = None
        self.handles: list[RemovableHandle] = []
        self.loss_watch = LossWatch()

    def layer(self, layers: tuple[str, ...], name: str, func: Any, args: Any, kwargs: Any) -> Any:
        output = func(*args, **kwargs)
        self._record_layer(layers[0], name, func, args, kwargs, output)
        return output

    def activation(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        sums = self._sums_of_activation(name, func, args, kwargs)  # before the call, which may overwrite its input
        output = func(*args, **kwargs)
        self.loss_watch.activation(name, output)
        if sums is not None:
            self.activations.append(sums)
            self.passed = output, sums.consumers
        return output

    def other(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        self.loss_watch.see(name, args, kwargs, output)

    @torch.no_grad()
    def _sums_of_activation(self, name: str, func: Any, args: Any, kwargs: Any) -> _ActivationSums | None:
        z = args[0] if args else kwargs.get("input")
        if not self.latest or not isinstance(z, Tensor) or not z.is_floating_point() or z.ndim < 2 or not z.numel():
            return None
        if self.differentiable and not z.requires_grad:  # not computed from that layer: rotary embeddings, masks
            return None
        rows = z.numel() // z.shape[self.unit_dim]
        if name in GATES:
            return _ActivationSums(self.latest, name, self.owner(), rows, gate_traits(name))
        function = ActivationFunction.of_call(name, func, args, kwargs)
        traits = function.traits
        with torch.enable_grad():
            leaf = z.detach().float().requires_grad_()
            (slope,) = torch.autograd.grad(function(leaf * 1.0).sum(), leaf)
        flat = slope.abs() < traits.flat_below
        units = flat.movedim(self.unit_dim, -1).reshape(-1, flat.shape[self.unit_dim])
        return _ActivationSums(self.latest, name, self.owner(), rows, traits, units.float().mean(), units.all(0))

    @torch.no_grad()
    def _record_layer(self, layer: str, name: str, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        y = next((t for t in output if isinstance(t, Tensor)), None) if isinstance(output, tuple) else output
        if not isinstance(y, Tensor) or not y.is_floating_point() or y.ndim < 2 or not y.numel():
            return
        weight = next((t for t in args if id(t) in self.weights), None)
        spatial = name.startswith("conv") and weight is not None and weight.ndim >= 3
        self.latest, self.unit_dim, self.differentiable = layer, 1 if spatial else -1, y.requires_grad
        x = args[0] if args else kwargs.get("input")
        if self.passed is not None and isinstance(x, Tensor) and same_memory(x, self.passed[0]):
            self.passed[1].append(layer)
        real = isinstance(x, Tensor) and x.is_floating_point() and x.ndim >= 2 and x.numel() > 0
        self.last_input = x.detach() if real else self.last_input
        if self.inputs is None and not self.layers and real:
            rows = x.detach().float().movedim(1 if spatial else -1, -1)
            rows = rows.reshape(-1, rows.shape[-1])
            self.inputs = rows.mean(0), rows.std(0, unbiased=False)
        sums = _LayerSums(*_sums(y.detach().float(), self.unit_dim))
        self.layers[layer] = self.layers.get(layer, sums)
        if y.requires_grad:
            self.handles.append(y.register_hook(lambda grad: self._gradient(layer, grad)))
        if name in RECURRENT:
            self._recurrent(layer, func, args, output)
        elif name in CELLS and y.requires_grad:
            steps = self.cells.setdefault(layer, {})
            at = len(steps)
            steps[at] = torch.zeros((), device=y.device)
            self.handles.append(y.register_hook(lambda grad: steps.__setitem__(at, _rms(grad))))

    def _gradient(self, layer: str, grad: Tensor) -> None:
        self.layers[layer].grad = _rms(grad)

    def _recurrent(self, layer: str, func: Any, args: Any, outputs: tuple[Tensor, ...]) -> None:
        x, packed = args[0], isinstance(args[1], Tensor) and not args[1].is_floating_point()
        if not packed and x.ndim != 3:
            return

        def split(grad: Tensor) -> Iterable[Tensor]:
            return torch.split(grad, args[1].tolist()) if packed else grad.unbind(1 if args[-1] is True else 0)

        sequence = _Sequence(layer, lambda fresh: func(fresh, *args[1:]), x.detach(), split)
        for i, out in enumerate(outputs):
            if isinstance(out, Tensor) and out.requires_grad:
                self.handles.append(out.register_hook(lambda grad, i=i: sequence.grads.__setitem__(i, grad)))
        self.sequences.append(sequence)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def stats(self) -> ActivationStats:
        """Everything on the host."""
        self.remove()
        missing = torch.tensor(math.nan)
        rows = [
            (n.rms, n.spread, n.identical_units, n.grad if n.grad is not None else missing)
            for n in self.layers.values()
        ]
        table = np.array([[float(v) for v in row] for row in rows], dtype=np.float64).reshape(-1, 4)
        mean, std = self.inputs if self.inputs is not None else (torch.empty(0), torch.empty(0))
        time = {layer: np.array([float(v) for v in steps.values()]) for layer, steps in self.cells.items()}
        for sequence in self.sequences:
            if sequence.grads:
                time[sequence.layer] = through_time(sequence)
        return ActivationStats(
            layers=tuple(self.layers),
            output_rms=table[:, 0],
            spread=table[:, 1],
            last_input_spread=math.nan if self.last_input is None else float(_sums(self.last_input.float(), -1)[1]),
            identical_units=table[:, 2],
            grad_rms=table[:, 3],
            activations=tuple(sums.record() for sums in self.activations),
            input_mean=mean.cpu().double().numpy(),
            input_std=std.cpu().double().numpy(),
            time=time,
            losses=tuple(self.loss_watch.calls),
        )


def through_time(sequence: _Sequence) -> Floats:
    """RMS gradient of a recurrent layer's input at each time step, `[T]`, from a second, detached pass."""
    devices = [sequence.inputs.device] if sequence.inputs.device.type == "cuda" else []
    with torch.enable_grad(), torch.random.fork_rng(devices=devices):
        fresh = sequence.inputs.clone().requires_grad_()
        outputs = sequence.again(fresh)
        reached = [(outputs[i], grad) for i, grad in sequence.grads.items()]
        (grad,) = torch.autograd.grad([o for o, _ in reached], fresh, [g for _, g in reached], allow_unused=True)
    if grad is None:
        return np.empty(0)
    return np.array([float(_rms(step)) for step in sequence.split(grad)])


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers, at most in another shape."""
    return one.numel() == other.numel() and one.data_ptr() == other.data_ptr() != 0


def _rms(tensor: Tensor) -> Tensor:
    return tensor.detach().float().square().mean().sqrt()


def _sums(y: Tensor, unit_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """RMS, spread over the samples and share of identical units of an output `[N, ..., U]` or `[N, U, ...]`."""
    rms = y.square().mean().sqrt()
    if len(y) < 2:
        return rms, torch.full_like(rms, math.nan), torch.zeros_like(rms)
    centered = y - y.mean(unit_dim, keepdim=True)
    spread = y.std(0, unbiased=False).square().mean().sqrt() / rms.clamp(min=1e-30)
    same = (centered.abs().amax() <= 1e-6 * y.abs().amax()) & (y.shape[unit_dim] > 1)
    return rms, spread, same.float()
