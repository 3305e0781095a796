"""COLLECT: what a loss function is given: which activation made its input, and whether its targets can be reached."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Loss functions by what they want: logits, log-probabilities, probabilities, and any real number.
LOGITS = frozenset(("cross_entropy", "binary_cross_entropy_with_logits"))
REGRESSION = frozenset(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"))
LOSSES = LOGITS | REGRESSION | {"nll_loss", "binary_cross_entropy"}
#: What an output minus a target is called, where the loss is written by hand.
DIFFERENCE = "difference"
#: Lowest and highest output of activations that do not reach every number.
BOUNDS = {
    "sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "special_expit": (0.0, 1.0), "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0), "hardtanh": (-1.0, 1.0), "relu6": (0.0, 6.0),
    "relu": (0.0, math.inf), "softplus": (0.0, math.inf), "exp": (0.0, math.inf),
}  # fmt: skip
#: Functions after which numbers are still what the activation made of them, and those after which they are scaled.
SAME = frozenset(
    [
        *("view", "reshape", "squeeze", "unsqueeze", "flatten", "contiguous", "float", "double", "to", "permute"),
        *("transpose", "T", "clamp", "clip", "clamp_min", "clamp_max", "getitem"),
    ]
)
SCALED = frozenset(("truediv", "div", "mul", "add", "sub", "rsub", "neg", "log", "log2", "log10", "log1p"))
LOGARITHMS = frozenset(("log", "log2", "log10"))
#: Fewest targets of which it means something that they are the same. Chosen.
MANY = 8
#: Outputs of activations that are remembered at a time. Chosen.
REMEMBERED = 64


@dataclass(frozen=True)
class LossCall:
    """One call of a loss function, or of a logarithm of an activation.

    Args:
        function: torch's name, or `DIFFERENCE`.
        after: Name of the activation whose output, at most reshaped, is its input; empty when there is none.
        width: Classes for a loss over classes; units that a softmax before it normalizes; 0 when neither is known.
        high: Largest input.
        outside: Share of the targets that the activation cannot reach, in [0, 1].
        target_scale: Absolute value that nine tenths of the targets do not exceed; NaN for class indices.
        constant: The class of all targets, where at least `MANY` of them are the same; -1 otherwise.
        broadcast: Shapes of input and target, where they differ in a loss that compares number by number.
    """

    function: str
    after: str = ""
    width: int = 0
    high: float = math.nan
    outside: float = 0.0
    target_scale: float = math.nan
    constant: int = -1
    broadcast: str = ""


@dataclass(frozen=True, eq=False)
class _Made:
    """A tensor that an activation has made; `exact` while its numbers are what the activation made of them."""

    tensor: Tensor
    name: str
    width: int
    exact: bool = True


class LossWatch:
    """Follows outputs of activations to the loss functions of one forward pass.

    Example:
        >>> watch = LossWatch()
        >>> probabilities = torch.randn(4, 3).softmax(1)
        >>> watch.see("softmax", (None, 1), {}, probabilities)
        >>> target = torch.tensor([0, 1, 2, 0])
        >>> watch.see("cross_entropy", (probabilities.requires_grad_(), target), {}, None)
        >>> call = watch.calls[0]
        >>> call.function, call.after, call.width
        ('cross_entropy', 'softmax', 3)
    """

    def __init__(self) -> None:
        self._made: deque[_Made] = deque(maxlen=REMEMBERED)
        self.calls: list[LossCall] = []

    def forget(self) -> None:
        """Lets all tensors go."""
        self._made.clear()

    def activation(self, name: str, output: Any) -> None:
        """An activation was called."""
        if isinstance(output, Tensor) and output.numel():
            self._made.append(_Made(output, name.rstrip("_"), output.shape[-1] if output.ndim > 1 else 0))

    @torch.no_grad()
    def see(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        """Any other function was called."""
        if name in LOSSES:
            self._loss(name, args, kwargs)
        elif name in ("softmax", "log_softmax") and isinstance(output, Tensor):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            width = output.shape[dim] if isinstance(dim, int) and output.ndim else 0
            self._made.append(_Made(output, name, width))
        elif name in SAME or name in SCALED:
            self._pass_on(name, args, output)

    def _find(self, tensor: Any) -> _Made | None:
        return next((made for made in reversed(self._made) if made.tensor is tensor), None)

    def _pass_on(self, name: str, args: Any, output: Any) -> None:
        made = next((found for arg in args if (found := self._find(arg)) is not None), None)
        if made is None or not isinstance(output, Tensor):
            return
        if name in LOGARITHMS and output.requires_grad:
            self.calls.append(LossCall(name, made.name, made.width))
        if name in ("sub", "rsub") and made.exact:
            self._difference(made, args)
        self._made.append(_Made(output, made.name, made.width, made.exact and name in SAME))

    def _difference(self, made: _Made, args: Any) -> None:
        """An activation's output minus something that is as large and has no gradient."""
        other = next((arg for arg in args if isinstance(arg, Tensor) and arg is not made.tensor), None)
        if other is not None and other.shape == made.tensor.shape and not other.requires_grad and other.numel() > 1:
            self.calls.append(self._call(DIFFERENCE, made, made.tensor, other))

    def _loss(self, name: str, args: Any, kwargs: Any) -> None:
        values = [*args[:2], *(kwargs[key] for key in ("input", "target") if key in kwargs)]
        if len(values) == 2 and all(isinstance(v, Tensor) and v.numel() for v in values) and values[0].requires_grad:
            self.calls.append(self._call(name, self._find(values[0]), *values))

    def _call(self, name: str, made: _Made | None, output: Tensor, target: Tensor) -> LossCall:
        made = made if made is not None and made.exact else None
        classes = not target.is_floating_point() and name in ("cross_entropy", "nll_loss")
        width = output.shape[1] if classes and output.ndim > 1 else made.width if made is not None else 0
        by_number = name in REGRESSION or name == "binary_cross_entropy"
        differs = by_number and output.shape != target.shape
        numbers = target.detach().float()
        low, high = BOUNDS.get(made.name, (-math.inf, math.inf)) if made is not None else (-math.inf, math.inf)
        outside = (numbers < low - 1e-4 * (1 + abs(low))) | (numbers > high + 1e-4 * (1 + abs(high)))
        return LossCall(
            name,
            made.name if made is not None else "",
            width,
            float(output.detach().float().max()),
            0.0 if classes else float(outside.float().mean()),
            math.nan if classes else ninth_decile(numbers.abs().flatten()),
            only_class(target) if classes else -1,
            f"{tuple(output.shape)} and {tuple(target.shape)}" if differs else "",
        )


def only_class(target: Tensor) -> int:
    """The class of at least `MANY` targets that are all the same; -1 otherwise.

    Example:
        >>> only_class(torch.full((32,), 3)), only_class(torch.tensor([3, 3])), only_class(torch.arange(32))
        (3, -1, -1)
    """
    first = target.flatten()[0]
    return int(first) if target.numel() >= MANY and bool((target == first).all()) else -1


def ninth_decile(numbers: Tensor) -> float:
    """The number that nine tenths of a vector do not exceed: a scale that a few outliers do not change.

    Example:
        >>> ninth_decile(torch.tensor([1.0] * 9 + [1e6]))
        1.0
    """
    return float(numbers.kthvalue(math.ceil(0.9 * len(numbers))).values)
