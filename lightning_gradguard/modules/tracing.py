"""What really happens in a forward pass: which activation follows each layer, and where in the code it is
called.

The data is followed, not the order of the lines: an activation belongs to a layer when the layer's output
reaches it through additions, views, normalisations, pooling or dropout, whatever the modules are called.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: Names under which torch calls its activations, as functions, methods and inside modules.
ACTIVATIONS = frozenset(
    [
        *("relu", "relu6", "leaky_relu", "rrelu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "threshold"),
        *("sigmoid", "expit", "tanh", "softplus", "softsign", "hardtanh", "hardsigmoid", "hardswish", "logsigmoid"),
        *("tanhshrink", "softshrink", "hardshrink", "exp", "sin", "cos"),
    ]
)
_TORCH_FOLDER = os.path.dirname(torch.__file__)


@dataclass
class LayerCall:
    """A layer with a weight of two or more dimensions, as seen in the pass.

    Args:
        name: Dotted module name; `""` is the model itself.
        calls: How often it ran.
        input_shape: Shape of the tensor it received, at its last call.
        output_shape: Shape of its output, at its last call.
        activation: Position in `Trace.activations` of the first activation its output reaches, None if none.
    """

    name: str
    calls: int = 0
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    activation: int | None = None


@dataclass
class ActivationCall:
    """One call of an activation.

    Args:
        kind: torch's name of the function, e.g. `"relu"`.
        owner: Dotted name of the innermost module whose `forward` made the call.
        module: Whether the owner is nothing but an activation (`nn.ReLU`), so that it can be exchanged.
        where: `file:line` of the call in code outside torch.
        apply: The same function with the same settings, for any tensor.
        hidden: Whether its output reaches another layer; False for an output activation.
    """

    kind: str
    owner: str
    module: bool
    where: str
    apply: Callable[[Tensor], Tensor]
    hidden: bool = False


@dataclass
class Trace:
    """One forward pass: layers in the order of their first call, activations in the order of their calls."""

    layers: dict[str, LayerCall] = field(default_factory=dict)
    activations: list[ActivationCall] = field(default_factory=list)

    def activation_of(self, layer: str) -> ActivationCall | None:
        """The activation that follows a layer; None for an output layer or one the pass never reached."""
        call = self.layers.get(layer)
        return None if call is None or call.activation is None else self.activations[call.activation]


def trace(model: nn.Module, example: Any) -> Trace:
    """Follows one forward pass without gradients, in eval mode, and puts every module's mode back.

    Args:
        model: Any module; a LightningModule is traced through its `forward`.
        example: What the model is called with: a tensor, a tuple of positional or a mapping of keyword
            arguments.

    Example:
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 1)
        ...     def forward(self, x):
        ...         return torch.sigmoid(self.b(torch.relu(self.a(x))))
        >>> seen = trace(Net(), torch.zeros(1, 2))
        >>> [(name, seen.activation_of(name).kind, seen.activation_of(name).hidden) for name in seen.layers]
        [('a', 'relu', True), ('b', 'sigmoid', False)]
    """
    watcher = _Watcher(model)
    with torch.no_grad(), eval_mode(model), watcher.module_stack(), watcher:
        call(model, example)
    return watcher.trace


def call(model: nn.Module, example: Any) -> Any:
    """Calls the model with an example as `trace` understands it."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@dataclass
class _Origin:
    """Where a tensor comes from: layers not yet activated, activations not yet in a layer, weights only."""

    layers: frozenset[str] = frozenset()
    activations: frozenset[int] = frozenset()
    weight: bool = False


class _Watcher(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.trace, self.stack = model, Trace(), [""]
        self.origins: dict[int, _Origin] = {}
        self.alive: list[Any] = []  # ids stay unique only while the tensors live
        for name, module in model.named_modules():
            for parameter in module.parameters(recurse=False):
                if parameter.ndim >= 2:
                    owner = name.partition(".parametrizations.")[0]
                    self.origins[id(parameter)] = _Origin(frozenset({owner}), weight=True)

    @contextmanager
    def module_stack(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for name, module in self.model.named_modules():
                enter = module.register_forward_pre_hook(lambda *_, name=name: self.stack.append(name))
                leave = module.register_forward_hook(lambda *_: self.stack.pop() and None)
                hooks.callback(enter.remove)
                hooks.callback(leave.remove)
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = list(_tensors((args, kwargs)))
        shapes = [tuple(t.shape) for t in inputs]
        output = func(*args, **kwargs)
        origins = [self.origins.get(id(t), _Origin()) for t in inputs]
        kind = getattr(func, "__name__", "").strip("_")
        outputs = list(_tensors(output))
        if not inputs or not outputs:
            return output
        if all(o.weight for o in origins) and origins:
            origin = _Origin(frozenset().union(*(o.layers for o in origins)), weight=True)
        elif any(o.weight for o in origins):
            origin = self._layer_called(origins, shapes, tuple(outputs[0].shape))
        elif kind in ACTIVATIONS:
            origin = self._activation_called(kind, func, args, kwargs, origins)
        else:
            origin = _joined(origins)
        for tensor in outputs:
            self.origins[id(tensor)] = origin
        self.alive.append((inputs, outputs))
        return output

    def _layer_called(self, origins: list[_Origin], shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> _Origin:
        names = frozenset().union(*(o.layers for o in origins if o.weight))
        data = [(o, shape) for o, shape in zip(origins, shapes, strict=True) if not o.weight]
        for position in frozenset().union(*(o.activations for o, _ in data)):
            self.trace.activations[position].hidden = True
        for name in sorted(names):
            layer = self.trace.layers.setdefault(name, LayerCall(name))
            layer.calls, layer.input_shape, layer.output_shape = layer.calls + 1, data[0][1], out
        return _Origin(names)

    def _activation_called(self, kind: str, func: Any, args: Any, kwargs: Any, origins: list[_Origin]) -> _Origin:
        owner = self.model.get_submodule(self.stack[-1])
        leaf = not any(True for _ in owner.children()) and all(p.ndim < 2 for p in owner.parameters())
        rest, settings = args[1:], {k: v for k, v in kwargs.items() if k not in ("inplace", "input")}
        if kind == "prelu":  # one slope for each channel; their mean stands for all
            rest, settings = (args[1] if len(args) > 1 else kwargs["weight"],), {}
            rest = (rest[0].detach().mean().reshape(1),)
        position = len(self.trace.activations)
        self.trace.activations.append(
            ActivationCall(kind, self.stack[-1], leaf, _caller(), lambda z: func(z, *rest, **settings))
        )
        joined = _joined(origins)
        for name in joined.layers:
            if self.trace.layers[name].activation is None:
                self.trace.layers[name].activation = position
        return _Origin(activations=joined.activations | {position})


def _joined(origins: list[_Origin]) -> _Origin:
    layers = frozenset().union(*(o.layers for o in origins))
    return _Origin(layers, frozenset().union(*(o.activations for o in origins)))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))


def _caller() -> str:
    """`file:line` of the nearest frame outside torch and this file."""
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name != __file__ and not name.startswith(_TORCH_FOLDER):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
