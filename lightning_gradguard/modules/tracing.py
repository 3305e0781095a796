"""Following a forward pass: which calls are layers, which are activations, and what code made them.

`ForwardTracer` tells them apart; it is shared by the probe that samples training batches and by `trace`. `trace` then
follows the data, not the order of the lines: an activation belongs to a layer when the layer's output reaches it
through additions, views, normalization, pooling or dropout, whatever the modules are called.
"""

from __future__ import annotations

import inspect
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_gradguard.modules.activations import (
    ELEMENTWISE,
    GATES,
    ActivationFunction,
    Traits,
    gate_traits,
    traits_of_module,
)

#: torch's names of fused recurrent layers, and of single steps.
RECURRENT = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))
CELLS = frozenset(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"))
#: Functions that are a layer's whatever their first argument is; it may be a parameter, such as learned queries.
_LAYER_FUNCTIONS = frozenset(
    [
        *("linear", "bilinear", "embedding", "embedding_bag", "conv1d", "conv2d", "conv3d", "conv_transpose1d"),
        *("conv_transpose2d", "conv_transpose3d", "multi_head_attention_forward", *RECURRENT, *CELLS),
    ]
)
ATTRIBUTE_ACCESS = frozenset(("__get__", "__set__", "__delete__"))
_FOLDER = os.path.dirname(__file__)
_TORCH_FOLDER = os.path.dirname(torch.__file__)


class ForwardTracer(TorchFunctionMode):
    """Tells the calls of layers and activations in a forward pass from all others. Subclasses record what they need.

    A layer's call takes one of its weights, or something computed from weights alone (transposed, normalized, joined),
    together with other data. Weights that are computed are kept alive until `forget`.

    Args:
        modules: `id` of each module -> its name.
        weights: `id` of each parameter of two or more dimensions -> name of its layer.
        vectors: `id` of each other parameter, such as a bias or a scale.
    """

    def __init__(self, modules: Mapping[int, str], weights: Mapping[int, str], vectors: frozenset[int]) -> None:
        super().__init__()
        self.modules, self.vectors = modules, vectors
        self.weights: dict[int, tuple[str, ...]] = {key: (layer,) for key, layer in weights.items()}
        self._computed: list[Tensor] = []

    @abstractmethod
    def layer(self, layers: tuple[str, ...], name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Makes and records the call of one layer, or of several that share it; returns its output.

        Args:
            layers: Names of the layers, in the order of their weights among the arguments.
            name: torch's name of the function, without underscores around it.
            func: The function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """

    @abstractmethod
    def activation(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Makes and records the call of an activation, `name` in `ELEMENTWISE` or `GATES`; returns its output."""

    def other(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        """Records any other call that was made; `name` is torch's, without underscores around it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dunder = getattr(func, "__name__", "")
        if dunder in ATTRIBUTE_ACCESS:
            return self._attribute(func, args, kwargs)
        name = dunder.strip("_")
        whole = name in _LAYER_FUNCTIONS
        layers = self._layers_of(args[1:] if whole else args, kwargs)
        if layers and (whole or self._has_data(args, kwargs)):
            return self.layer(layers, name, func, args, kwargs)
        if not layers and (name in ELEMENTWISE or name in GATES):
            return self.activation(name, func, args, kwargs)
        output = func(*args, **kwargs)
        if layers:
            self._follow_weights(layers, output)
        else:
            self.other(name, args, kwargs, output)
        return output

    def _attribute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Makes an access to an attribute: `weight.T` counts as the weight, `weight.grad` does not."""
        output = func(*args, **kwargs)
        if isinstance(output, Tensor) and func.__self__ is not Tensor.grad:
            layers = self.weights.get(id(args[0]))
            if layers:
                self._follow_weights(layers, output)
            else:
                self.other("", args, kwargs, output)
        return output

    def _layers_of(self, args: Any, kwargs: Any) -> tuple[str, ...]:
        """Layers whose weights are among the arguments."""
        found: tuple[str, ...] = ()
        for value in (*args, *kwargs.values()):
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if id(item) in self.weights:
                    found += self.weights[id(item)]
        return found if len(found) < 2 else tuple(dict.fromkeys(found))

    def _has_data(self, args: Any, kwargs: Any) -> bool:
        """Whether the arguments hold a tensor that is neither a parameter, computed from weights, nor a number."""
        return any(
            t.ndim and id(t) not in self.weights and id(t) not in self.vectors for t in tensors_in((args, kwargs))
        )

    def _follow_weights(self, layers: tuple[str, ...], output: Any) -> None:
        for tensor in tensors_in(output):
            if tensor.ndim >= 2 and id(tensor) not in self.weights:
                self.weights[id(tensor)] = layers
                self._computed.append(tensor)

    def forget(self) -> None:
        """Releases the weights that were computed in the pass."""
        for tensor in self._computed:
            del self.weights[id(tensor)]
        self._computed = []

    def owner(self) -> str:
        """Name of the module whose `forward` is running."""
        return running_module(self.modules)


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
    """One call of an activation or gate.

    Args:
        kind: torch's name of the function, e.g. `"relu"`.
        owner: Dotted name of the innermost module whose `forward` made the call.
        module: Whether the owner is nothing but an elementwise activation (`nn.ReLU`), so that it can be exchanged.
        where: `file:line` of the call in code outside torch.
        apply: The same function with the same settings, for any tensor.
        traits: Its properties; those of the whole module where `module` is true.
        hidden: Whether its output reaches another layer; False for an output activation.
    """

    kind: str
    owner: str
    module: bool
    where: str
    apply: Callable[[Tensor], Tensor]
    traits: Traits
    hidden: bool = False


@dataclass
class Trace:
    """One forward pass: layers in the order of their first call, activations in the order of their calls."""

    layers: dict[str, LayerCall] = field(default_factory=dict)
    activations: list[ActivationCall] = field(default_factory=list)

    def activation_of(self, layer: str) -> ActivationCall | None:
        """The activation that follows a layer; None for an output layer or one that did not run."""
        call = self.layers.get(layer)
        return None if call is None or call.activation is None else self.activations[call.activation]


def trace(model: nn.Module, example: Any) -> Trace:
    """Follows one forward pass without gradients, in evaluation mode, and restores every module's mode.

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
    tracer = _DataTracer(model)
    with torch.no_grad(), eval_mode(model), tracer:
        call(model, example)
    return tracer.trace


def call(model: nn.Module, example: Any) -> Any:
    """Calls the model with an example as `trace` understands it."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; afterwards every module has the mode it had before."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@dataclass
class _Origin:
    """Where a tensor comes from: layers without an activation since, and activations without a layer since."""

    layers: frozenset[str] = frozenset()
    activations: frozenset[int] = frozenset()


class _DataTracer(ForwardTracer):
    """Follows every tensor of a pass from the layers and activations that it comes from."""

    def __init__(self, model: nn.Module) -> None:
        owned = [(name, p) for name, module in model.named_modules() for p in module.parameters(recurse=False)]
        super().__init__(
            modules={id(module): name for name, module in model.named_modules()},
            weights={id(p): name.partition(".parametrizations.")[0] for name, p in owned if p.ndim >= 2},
            vectors=frozenset(id(p) for _, p in owned if p.ndim < 2),
        )
        self.model, self.trace = model, Trace()
        self.origins: dict[int, _Origin] = {}
        self.alive: list[Any] = []  # ids stay unique only while the tensors live
        self.module_traits: dict[str, Traits | None] = {}

    def layer(self, layers: tuple[str, ...], name: str, func: Any, args: Any, kwargs: Any) -> Any:
        weights = self.weights.keys() | self.vectors
        data = [t for t in tensors_in((args, kwargs)) if id(t) not in weights]
        shape = tuple(data[0].shape) if data else ()
        output = func(*args, **kwargs)
        out = next((tuple(t.shape) for t in tensors_in(output)), ())
        for position in self._joined(data).activations:
            self.trace.activations[position].hidden = True
        for layer in sorted(layers):
            seen = self.trace.layers.setdefault(layer, LayerCall(layer))
            seen.calls, seen.input_shape, seen.output_shape = seen.calls + 1, shape, out
        self._put(output, _Origin(frozenset(layers)))
        return output

    def activation(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        owner, position = self.owner(), len(self.trace.activations)
        if owner not in self.module_traits:
            self.module_traits[owner] = traits_of_module(self.model.get_submodule(owner))
        traits = self.module_traits[owner]
        if name in GATES:
            apply, own = func, gate_traits(name)
        else:
            apply = ActivationFunction.of_call(name, func, args, kwargs)
            own = apply.traits
        self.trace.activations.append(
            ActivationCall(name, owner, traits is not None, user_line(), apply, traits or own)
        )
        joined = self._joined(tensors_in((args, kwargs)))
        for layer in joined.layers:
            if self.trace.layers[layer].activation is None:
                self.trace.layers[layer].activation = position
        output = func(*args, **kwargs)
        self._put(output, _Origin(activations=joined.activations | {position}))
        return output

    def other(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        inputs = list(tensors_in((args, kwargs)))
        if inputs:
            self._put(output, self._joined(inputs))

    def _joined(self, tensors: Iterable[Tensor]) -> _Origin:
        origins = [self.origins[id(t)] for t in tensors if id(t) in self.origins]
        layers = frozenset[str]().union(*(o.layers for o in origins))
        return _Origin(layers, frozenset[int]().union(*(o.activations for o in origins)))

    def _put(self, output: Any, origin: _Origin) -> None:
        for tensor in tensors_in(output) if origin.layers or origin.activations else ():
            self.origins[id(tensor)] = origin
            self.alive.append(tensor)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested sequences and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        yield from tensors_in(tuple(value.values()))


def running_module(modules: Mapping[int, str]) -> str:
    """Name of the module whose `forward` is running, in the nearest frame; empty when there is none.

    Args:
        modules: `id` of each module -> its name.
    """
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_varnames:
            name = modules.get(id(frame.f_locals.get(code.co_varnames[0])))
            if name is not None:
                return name
        frame = frame.f_back
    return ""


def user_line() -> str:
    """`file:line` of the nearest frame outside torch and this folder."""
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_FOLDER, _TORCH_FOLDER)):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
