"""COLLECT: sampled looks inside one training batch: through depth, into each unit, and through time.

A look rides on the batch that is trained anyway. It watches the torch functions of one forward pass, computes a few
sums beside them, and asks autograd for the gradients that pass by; nothing it reads is changed, no random number is
drawn, and no module is called twice except a fused recurrent one, whose gradient through time needs a second, detached
pass. So a healthy run with looks is bit-identical to one without.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from lightning_gradguard.collect.activation_stats import ONE_SIDED, SATURATING, ActivationRecord, ActivationStats
from lightning_gradguard.collect.layers import clean_name, layer_name
from lightning_gradguard.tensors.norms import Floats

#: A slope below this share of the steepest one is flat: sigmoid beyond |z| = 5.3, tanh beyond 3.0. Chosen.
FLAT = 0.01
_RECURRENT = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))
_CELLS = frozenset(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"))


class ActivationProbe:
    """Looks into a module's training batches, when asked to.

    Args:
        module: The module in training.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> probes = ActivationProbe(net)
        >>> probes.open()
        >>> loss = net(torch.randn(16, 4)).square().mean()
        >>> probes.shut()
        >>> loss.backward()
        >>> look = probes.read()
        >>> look.layers, look.activations[0].kind
        (('0', '2'), 'relu')
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._eye: _TorchFunctionRecorder | None = None
        self._open = False

    @property
    def possible(self) -> bool:
        """Whether the module can be looked into: a compiled one cannot, its Python code does not run."""
        return not any(is_compiled(m) or type(m).__name__ == "FullyShardedDataParallel" for m in self.module.modules())

    def open(self) -> None:
        """To be called before the forward pass."""
        self.drop()
        self._eye, self._open = _TorchFunctionRecorder(self.module), True
        self._eye.__enter__()

    def shut(self) -> None:
        """To be called between forward and backward pass."""
        if self._eye is not None and self._open:
            self._open, self._eye.passed = False, None
            self._eye.__exit__(None, None, None)

    def read(self) -> ActivationStats | None:
        """What was seen, once the gradients are there; None when nothing was."""
        self.shut()
        eye, self._eye = self._eye, None
        return eye.look() if eye is not None and eye.layers else None

    def drop(self) -> None:
        """Ends a look without reading it."""
        self.shut()
        if self._eye is not None:
            self._eye.remove()
        self._eye = None


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` holds the module, or a function or method of its own."""
    parts = (*vars(module).values(), module.forward, getattr(module, "training_step", None))
    return isinstance(module, OptimizedModule) or any(hasattr(part, "_torchdynamo_orig_callable") for part in parts)


@dataclass
class _LayerNotes:
    """Sums of one layer, still on the device."""

    rms: Tensor
    spread: Tensor
    identical_units: Tensor
    grad: Tensor | None = None


@dataclass
class _Sequence:
    """A fused recurrent call: how to repeat it, and the gradients that reached its outputs."""

    layer: str
    again: Callable[[Tensor], Any]
    inputs: Tensor
    split: Callable[[Tensor], Iterable[Tensor]]
    grads: dict[int, Tensor] = field(default_factory=dict)


class _TorchFunctionRecorder(TorchFunctionMode):
    """Watches the torch functions of one forward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.names = {id(p): layer_name(clean_name(n)) for n, p in module.named_parameters() if p.ndim >= 2}
        self.layers: dict[str, _LayerNotes] = {}
        self.modules = {id(m): clean_name(n) for n, m in module.named_modules()}
        self.activations: list[tuple[str, str, Tensor, Tensor, int, str, list[str]]] = []
        self.passed: tuple[Tensor, list[str]] | None = None  # the latest activation's output and who takes it
        self.inputs: tuple[Tensor, Tensor] | None = None
        self.sequences: list[_Sequence] = []
        self.cells: dict[str, dict[int, Tensor]] = {}
        self.latest, self.unit_dim = "", -1
        self.reaching: Tensor | None = None  # what the latest layer was given
        self.handles: list[RemovableHandle] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("__get__", "__set__", "__delete__"):  # an attribute, such as `p.grad`
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        layer = self._layer_of(args, kwargs)
        seen = len(self.activations)
        if layer is None and name in SATURATING | ONE_SIDED and self.latest:
            self._activation(name, func, args, kwargs)
        output = func(*args, **kwargs)
        if len(self.activations) > seen:
            self.passed = output, self.activations[-1][-1]
        if layer is not None:
            self._layer(layer, name, func, args, kwargs, output)
        return output

    def _layer_of(self, args: Any, kwargs: Any) -> str | None:
        for value in (*args, *kwargs.values()):
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if id(item) in self.names and isinstance(item, Tensor):
                    return self.names[id(item)]
        return None

    def _owner(self) -> str:
        """The module whose `forward` is running: the nearest frame that has one as `self`."""
        frame = inspect.currentframe()
        while frame is not None:
            if frame.f_code.co_name == "forward" and id(frame.f_locals.get("self")) in self.modules:
                return self.modules[id(frame.f_locals["self"])]
            frame = frame.f_back
        return ""

    @torch.no_grad()
    def _activation(self, name: str, func: Any, args: Any, kwargs: Any) -> None:
        z = args[0] if args else kwargs.get("input")
        if not isinstance(z, Tensor) or not z.is_floating_point() or z.ndim < 2 or not z.numel():
            return
        settings = {k: v for k, v in kwargs.items() if k not in ("inplace", "input", "out")}
        with torch.enable_grad():
            leaf = z.detach().float().requires_grad_()
            (slope,) = torch.autograd.grad(func(leaf * 1.0, *args[1:], **settings).sum(), leaf)
        steepest = 0.25 if name in ("sigmoid", "expit") else 1.0
        flat = slope.abs() < FLAT * steepest
        if name == "exp":  # its slope has no scale of its own
            flat = slope == 0
        units = flat.movedim(self.unit_dim, -1).reshape(-1, flat.shape[self.unit_dim])
        self.activations.append((self.latest, name, units.float().mean(), units.all(0), len(units), self._owner(), []))

    @torch.no_grad()
    def _layer(self, layer: str, name: str, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        y = next((t for t in output if isinstance(t, Tensor)), None) if isinstance(output, tuple) else output
        if not isinstance(y, Tensor) or not y.is_floating_point() or y.ndim < 2 or not y.numel():
            return
        weight = next((t for t in args if id(t) in self.names), None)
        spatial = name.startswith("conv") and weight is not None and weight.ndim >= 3
        self.latest, self.unit_dim = layer, 1 if spatial else -1
        x = args[0] if args else kwargs.get("input")
        if self.passed is not None and isinstance(x, Tensor) and same_memory(x, self.passed[0]):
            self.passed[1].append(layer)
        real = isinstance(x, Tensor) and x.is_floating_point() and x.ndim >= 2 and x.numel() > 0
        self.reaching = x.detach() if real else self.reaching
        if self.inputs is None and not self.layers and real:
            rows = x.detach().float().movedim(1 if spatial else -1, -1)
            rows = rows.reshape(-1, rows.shape[-1])
            self.inputs = rows.mean(0), rows.std(0, unbiased=False)
        notes = _LayerNotes(*_sums(y.detach().float(), self.unit_dim))
        self.layers[layer] = self.layers.get(layer, notes)
        if y.requires_grad:
            self.handles.append(y.register_hook(lambda grad: self._gradient(layer, grad)))
        if name in _RECURRENT:
            self._recurrent(layer, func, args, output)
        elif name in _CELLS and y.requires_grad:
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
            if packed:
                return grad.split(args[1].tolist())
            return grad.unbind(1 if args[-1] is True else 0)

        sequence = _Sequence(layer, lambda fresh: func(fresh, *args[1:]), x.detach(), split)
        for i, out in enumerate(outputs):
            if isinstance(out, Tensor) and out.requires_grad:
                self.handles.append(out.register_hook(lambda grad, i=i: sequence.grads.__setitem__(i, grad)))
        self.sequences.append(sequence)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def look(self) -> ActivationStats:
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
            last_input_spread=math.nan if self.reaching is None else float(_sums(self.reaching.float(), -1)[1]),
            identical_units=table[:, 2],
            grad_rms=table[:, 3],
            activations=tuple(
                ActivationRecord(
                    layer, kind, float(flat), dead.cpu().numpy(), rows, owner, tuple(dict.fromkeys(takers))
                )
                for layer, kind, flat, dead, rows, owner, takers in self.activations
            ),
            input_mean=mean.cpu().double().numpy(),
            input_std=std.cpu().double().numpy(),
            time=time,
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
    centred = y - y.mean(unit_dim, keepdim=True)
    spread = y.std(0, unbiased=False).square().mean().sqrt() / rms.clamp(min=1e-30)
    same = (centred.abs().amax() <= 1e-6 * y.abs().amax()) & (y.shape[unit_dim] > 1)
    return rms, spread, same.float()
