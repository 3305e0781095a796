"""The vocabulary of activations: which torch functions are activations, and properties computed from their values.

The probe that samples training batches and the tracer behind `fixes` both use it. Softmax and its relatives are not
in it: they normalize over units, and a signal passes through them as through a LayerNorm.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

#: A slope below this share of the steepest one is flat: sigmoid beyond |z| = 5.3, tanh beyond 3.0. The default was
#: chosen, not measured.
FLAT = 0.01
#: Distance of the nodes of numerical integrals. Both are exact for kinks at multiples of 0.01; the coarse one is for
#: functions that are evaluated again and again, since their parameters are trained.
FINE, COARSE = 1e-3, 1e-2
#: Elementwise activations by the name of torch's function, without the underscores of in-place and private forms.
ELEMENTWISE = frozenset(
    [
        *("relu", "relu6", "leaky_relu", "rrelu", "prelu", "threshold", "elu", "selu", "celu", "gelu", "silu", "mish"),
        *("hardswish", "softplus", "log_sigmoid", "softsign", "tanh", "hardtanh", "sigmoid", "special_expit"),
        *("hardsigmoid", "tanhshrink", "softshrink", "hardshrink", "exp", "sin", "cos"),
    ]
)
#: Gates multiply one half of the units by a function of the other half: name of torch's function -> that function.
GATES: Mapping[str, Callable[[Tensor], Tensor]] = {"glu": torch.sigmoid}


@dataclass(frozen=True)
class Traits:
    """What an activation does to a signal, computed from its values. The defaults are those of the identity.

    Args:
        gain: What weights before it must be multiplied by so that gradients keep their scale (see `gain_of`).
        saturating: Whether it is flat at both ends.
        one_sided: Whether it is flat at one end only, like ReLU.
        zero_at_zero: Whether it maps 0 to 0.
        elementwise: Whether each output depends on one input; False for a gate.
        flat_below: Absolute slope below which it counts as flat: `FLAT` times the steepest slope, at most `FLAT`.
    """

    gain: float = 1.0
    saturating: bool = False
    one_sided: bool = False
    zero_at_zero: bool = True
    elementwise: bool = True
    flat_below: float = FLAT


IDENTITY = Traits()


@dataclass(frozen=True)
class ActivationFunction:
    """An elementwise activation with the settings of one call. It writes nothing in place and draws no random number.

    Args:
        function: torch's function.
        rest: Positional arguments after the input. Slopes of a PReLU are kept as a tensor `[1]` or `[channels]`.
        settings: Keyword arguments, as pairs.

    Example:
        >>> leaky = ActivationFunction(nn.functional.leaky_relu, (0.2,))
        >>> leaky(torch.tensor([-1.0])), round(leaky.traits.gain, 4)
        (tensor([-0.2000]), 1.3868)
    """

    function: Callable[..., Tensor]
    rest: tuple[Any, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of_call(
        cls, kind: str, func: Callable[..., Tensor], args: Any, kwargs: Mapping[str, Any]
    ) -> ActivationFunction:
        """The function of a call that torch made.

        Args:
            kind: Name in `ELEMENTWISE`.
            func: What was called.
            args: Its positional arguments, the input first unless it is in `kwargs`.
            kwargs: Its keyword arguments.
        """
        rest = tuple(args[1:])
        settings = {key: value for key, value in kwargs.items() if key not in ("input", "inplace", "out")}
        if kind == "rrelu":  # in training its slopes are random; their mean is what torch uses in evaluation
            lower = rest[0] if rest else settings.get("lower", 1 / 8)
            upper = rest[1] if len(rest) > 1 else settings.get("upper", 1 / 3)
            return cls(nn.functional.leaky_relu, ((lower + upper) / 2,))
        if kind == "prelu":
            return cls(nn.functional.prelu, ((rest[0] if rest else settings["weight"]).detach().clone(),))
        return cls(func, rest, tuple(settings.items()))

    def __call__(self, z: Tensor) -> Tensor:
        """The activation of `z`, any shape; where the number of channels is another, PReLU's slopes become one."""
        return self.function(z, *(_fitting(value, z) for value in self.rest), **dict(self.settings))

    @property
    def traits(self) -> Traits:
        """Its properties, remembered for every combination of settings that holds no tensor."""
        held = [*self.rest, *(value for _, value in self.settings)]
        if any(isinstance(value, Tensor) for value in held):
            return _computed_traits(self, spacing=COARSE)
        return _known_traits(self)


def _fitting(value: Any, z: Tensor) -> Any:
    """A PReLU's slopes for `z`; one slope of the same mean square where `z` has another number of channels."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    slopes = value.to(z)
    fits = len(slopes) == 1 or (z.ndim > 1 and z.shape[1] == len(slopes))
    return slopes if fits else slopes.square().mean().sqrt().reshape(1)


def gain_of(activation: Callable[[Tensor], Tensor] | None) -> float:
    """What weights must be multiplied by so that gradients keep their scale through this activation.

    `1/√E[φ'(z)²]` with z ~ N(0, 1): √2 for ReLU, √(2/(1 + a²)) for a leaky one, as in torch. For a φ that levels off
    on both sides of 0, `1/φ'(0)`, the inverse slope of its linear part: 1 for tanh, 4 for sigmoid.
    `torch.nn.init.calculate_gain` has 5/3 and 1 for these two. Through sigmoids the gradient loses 0.63 decades a
    layer at gain 1 and 0.2 at gain 4, in agreement with mean-field theory: `tests/test_physics.py`. A function
    without a slope anywhere has gain 1.

    Args:
        activation: An elementwise function or module; None, no activation, has gain 1.

    Raises:
        ValueError: If it is not elementwise, or not defined for all numbers.

    Example:
        >>> [round(gain_of(f), 3) for f in (torch.relu, torch.tanh, torch.sigmoid, nn.functional.gelu, None)]
        [1.414, 1.0, 4.0, 1.481, 1.0]

    References:
        He et al. 2015, arXiv 1502.01852; Schoenholz et al. 2017, arXiv 1611.01232.
    """
    if activation is None:
        return 1.0
    if isinstance(activation, nn.Module):
        found = traits_of_module(activation)
    else:
        found = _computed_traits(activation) if _is_elementwise(activation, 1) else None
    if found is None:
        rule = "must be given an elementwise function or module that is defined for all numbers"
        raise ValueError(f"`gain_of(activation)` {rule}, got {activation!r}.")
    return found.gain


def traits_of_module(module: nn.Module) -> Traits | None:
    """Properties of a module that is nothing but an elementwise activation; None for every other module.

    It is evaluated as a whole, in evaluation mode: `x * sigmoid(x)` counts as such, not as the sigmoid inside.

    Example:
        >>> traits_of_module(nn.ReLU6()).saturating, traits_of_module(nn.Softmax(1)) is None
        (True, True)
    """
    if any(True for _ in module.children()) or any(p.ndim >= 2 for p in module.parameters()):
        return None
    width = max((p.numel() for p in module.parameters()), default=1)
    # Users' modules may do anything with an input of another shape than they are made for.
    try:
        twin = copy.deepcopy(module).to("cpu", torch.float64).eval()
        with torch.random.fork_rng(devices=[]):
            if not _is_elementwise(twin.forward, width):
                return None
            return _computed_traits(twin.forward, width, COARSE if width > 1 else FINE)
    except Exception:
        return None


@torch.no_grad()
def _is_elementwise(function: Callable[[Tensor], Tensor], width: int) -> bool:
    """Whether a change of one input changes that output alone."""
    z = torch.linspace(-3, 3, 6 * max(2, width), dtype=torch.float64).reshape(6, -1)
    before = function(z.clone())
    if not isinstance(before, Tensor) or before.shape != z.shape:
        return False
    z[3, 0] += 0.5
    changed = function(z) != before
    changed[3, 0] = False
    return not changed.any()


@lru_cache(maxsize=256)
def _known_traits(function: ActivationFunction) -> Traits:
    return _computed_traits(function)


@lru_cache(maxsize=2)
def _nodes(spacing: float) -> tuple[Tensor, Tensor]:
    """Midpoints of [-8, 8], so that no node lies on a kink, and the density of N(0, 1) there, `[N]` float64."""
    count = round(16 / spacing)
    z = (torch.arange(count, dtype=torch.float64, device="cpu") - (count - 1) / 2).mul_(spacing)
    return z, torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)


def _computed_traits(function: Callable[[Tensor], Tensor], width: int = 1, spacing: float = FINE) -> Traits:
    """Properties of an elementwise function, by differentiating it.

    Args:
        function: Maps `[N]`, or `[N, width]` where `width` is above 1, to the same shape.
        width: Number of channels with parameters of their own; the mean over them counts.
        spacing: Distance of the nodes at which it is evaluated.
    """
    nodes, density = _nodes(spacing)
    count, far = len(nodes), torch.linspace(16, 24, 9, dtype=torch.float64, device="cpu")
    z = torch.cat([nodes, -far, far, torch.zeros(1, dtype=torch.float64, device="cpu")])
    with torch.enable_grad():
        leaf = (z if width == 1 else z[:, None].repeat(1, width)).requires_grad_()
        y = function(leaf * 1.0)
        if y.shape != leaf.shape:
            raise ValueError(f"an activation must keep its input's shape, got {tuple(leaf.shape)} -> {tuple(y.shape)}.")
        (slope,) = torch.autograd.grad(y.sum(), leaf)
    y = y.detach().reshape(len(z), width).mean(1)
    squares = slope.reshape(len(z), width).square().mean(1)
    steepness = squares.sqrt()
    steepest = float(steepness[:count].max())
    ends = [float(steepness[count : count + 9].max()), float(steepness[count + 9 : -1].max())]
    flat = [end < FLAT * steepest for end in ends]
    unbounded = max(ends) > 10 * steepest  # exp: its slope has no scale of its own, only 0 is flat
    fp32 = torch.finfo(torch.float32)
    return Traits(
        gain=_gain(y[:count], squares[:count], density, spacing),
        saturating=all(flat),
        one_sided=any(flat) and not all(flat),
        zero_at_zero=abs(float(y[-1])) < 1e-6,
        flat_below=fp32.tiny * fp32.eps if unbounded else FLAT * min(1.0, steepest),
    )


def _gain(y: Tensor, squares: Tensor, density: Tensor, spacing: float) -> float:
    """See `gain_of`; from the values and squared slopes at `_nodes`."""
    half = len(y) // 2
    low, left, center, right, high = (float(y[i]) for i in (0, half // 2, half, half + half // 2, len(y) - 1))
    levels_off = abs(high - right) < 0.25 * abs(right - center) and abs(left - low) < 0.25 * abs(center - left)
    middle = float(y[half] - y[half - 1])
    if levels_off and middle:
        return abs(spacing / middle)
    mean = float((squares * density).sum()) * spacing
    return 1 / math.sqrt(mean) if 0 < mean < math.inf else 1.0


@lru_cache(maxsize=16)
def gate_traits(kind: str) -> Traits:
    """Properties of a gate `a · g(b)` with a, b ~ N(0, 1): its gain is `1/√(E[g(b)²] + E[g'(b)²])`.

    Example:
        >>> round(gate_traits("glu").gain, 2)
        1.72
    """
    nodes, density = _nodes(FINE)
    with torch.enable_grad():
        b = nodes.clone().requires_grad_()
        gate = GATES[kind](b)
        (slope,) = torch.autograd.grad(gate.sum(), b)
    mean = float(((gate.detach().square() + slope.square()) * density).sum()) * FINE
    return Traits(1 / math.sqrt(mean), elementwise=False)
