"""Weight initialization by LeCun, Glorot, He, orthogonal and small random; the gain fits the activation after a layer.

Weights are changed in place, so an existing optimizer stays valid. Initialize before the model is sharded, and with a
`seed`: numbers are drawn on the CPU and copied, so that they are the same on every rank and every accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradguard.fixes.change import Change, Changes, recorded
from lightning_gradguard.modules.tracing import ActivationCall, Trace, trace

#: Layers whose `weight` these functions initialize. For recurrent layers see `recurrent.orthogonal_recurrent`.
LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def glorot(model: nn.Module, example: Any = None, *, uniform: bool = False, **options: Any) -> Changes:
    """Draws weights with variance gain² · 2/(n_in + n_out), so that signal and gradient keep their scale.

    Args:
        model: Any module; only Linear, Conv and ConvTranspose layers are initialized.
        example: What the model is called with, as in `trace`. Required unless `gain` is given.
        uniform: U(±gain·√(6/(n_in + n_out))) instead of a normal distribution.
        options: `gain`, one number for all layers instead of the gain of the activation after each; `bias`, the value
            of all biases (default 0; None leaves them unchanged); `layers`, names of the layers to initialize instead
            of all; `seed`, an int for reproducible weights (default None: torch's global generator).

    Returns:
        One change for each layer, with the standard deviation before and after.

    Raises:
        ValueError: If neither `gain` nor an example is given, or a named layer cannot be initialized.
        NothingToChange: If the model has no such layer.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(100, 100), nn.Sigmoid(), nn.Linear(100, 100))
        >>> for change in glorot(net, torch.zeros(1, 100), seed=0):
        ...     print(change)
        0: std 0.0576 -> std 0.401 (glorot, gain 4 for sigmoid)
        2: std 0.0577 -> std 0.101 (glorot, gain 1 for no activation)

    References:
        Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".
    """
    draw = nn.init.xavier_uniform_ if uniform else nn.init.xavier_normal_
    return _initialize(model, example, "glorot", lambda weight, gain: draw(weight, gain=gain), **options)


def he(
    model: nn.Module, example: Any = None, *, uniform: bool = False, fan_out: bool = False, **options: Any
) -> Changes:
    """Draws weights with variance gain²/n_in: 2/n_in before a ReLU, which sets half of its inputs to zero.

    The uniform bound is gain·√(3/n_in), that is √(6/n_in) for ReLU.

    Args:
        model: As in `glorot`.
        example: As in `glorot`.
        uniform: As in `glorot`, with the bound above.
        fan_out: Variance gain²/n_out, which keeps the gradient's scale instead of the signal's.
        options: As in `glorot`.

    Returns:
        One change for each layer.

    Raises:
        ValueError: As in `glorot`.
        NothingToChange: If the model has no layer to initialize.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 1))
        >>> print(he(net, torch.zeros(1, 200), layers=["0"], seed=0)[0])
        0: std 0.0407 -> std 0.1 (he, gain 1.41 for relu)

    References:
        He, Zhang, Ren and Sun 2015, "Delving deep into rectifiers", arXiv 1502.01852.
    """
    draw = nn.init.kaiming_uniform_ if uniform else nn.init.kaiming_normal_
    unit = partial(draw, mode="fan_out" if fan_out else "fan_in", nonlinearity="linear")
    return _initialize(model, example, "he", lambda weight, gain: unit(weight).mul_(gain), **options)


def lecun(model: nn.Module, example: Any = None, *, uniform: bool = False, **options: Any) -> Changes:
    """Draws weights with variance 1/n_in, whatever the activation. Suited to SELU and tanh.

    Args:
        model: As in `glorot`.
        example: Not used; accepted so that all initializers are called in the same way.
        uniform: U(±√(3/n_in)) instead of a normal distribution.
        options: As in `glorot`; `gain` is 1 unless given.

    Returns:
        One change for each layer.

    Raises:
        ValueError: As in `glorot`.
        NothingToChange: If the model has no layer to initialize.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> print(lecun(nn.Sequential(nn.Linear(400, 100)), seed=0)[0])
        0: std 0.0288 -> std 0.0501 (lecun, gain 1)

    References:
        LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp"; Klambauer et al. 2017, arXiv 1706.02515 (SELU).
    """
    draw = nn.init.kaiming_uniform_ if uniform else nn.init.kaiming_normal_
    unit = partial(draw, mode="fan_in", nonlinearity="linear")
    return _initialize(model, None, "lecun", lambda weight, gain: unit(weight).mul_(gain), **{"gain": 1.0, **options})


def orthogonal(model: nn.Module, example: Any = None, **options: Any) -> Changes:
    """Draws weights as gain times a (semi-)orthogonal matrix, which keeps the length of a vector through depth.

    Args:
        model: As in `glorot`.
        example: As in `glorot`.
        options: As in `glorot`.

    Returns:
        One change for each layer.

    Raises:
        ValueError: As in `glorot`.
        NothingToChange: If the model has no layer to initialize.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        >>> _ = orthogonal(net, torch.zeros(1, 3), seed=0)
        >>> torch.allclose(net[0].weight @ net[0].weight.T, torch.eye(3), atol=1e-6)
        True

    References:
        Saxe, McClelland and Ganguli 2014, arXiv 1312.6120.
    """
    return _initialize(model, example, "orthogonal", lambda w, gain: nn.init.orthogonal_(w, gain=gain), **options)


def small_random(
    model: nn.Module, example: Any = None, *, std: float = 0.01, uniform: bool = False, **options: Any
) -> Changes:
    """Draws weights from N(0, std²) or U(±std): the older advice, with which the signal vanishes in deep networks.

    Args:
        model: As in `glorot`.
        example: Not used; accepted so that all initializers are called in the same way.
        std: Standard deviation, or the bound when `uniform`; positive. Default as in Krizhevsky et al. 2012.
        uniform: U(±std) instead of a normal distribution.
        options: As in `glorot`, without `gain`.

    Returns:
        One change for each layer.

    Raises:
        ValueError: If `std` is not positive.
        NothingToChange: If the model has no layer to initialize.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> print(small_random(nn.Sequential(nn.Linear(400, 100)), seed=0)[0])
        0: std 0.0288 -> std 0.01 (small random)
    """
    if std <= 0:
        raise ValueError(f"`small_random(std=...)` must be positive, got {std!r}.")
    draw = partial(nn.init.uniform_, a=-std, b=std) if uniform else partial(nn.init.normal_, std=std)
    return _initialize(model, None, "small random", lambda weight, _: draw(weight), **options, gain=1.0)


def _initialize(
    model: nn.Module,
    example: Any,
    scheme: str,
    draw: Callable[[Tensor, float], Tensor],
    *,
    gain: float | None = None,
    bias: float | None = 0.0,
    layers: Collection[str] | None = None,
    seed: int | None = None,
) -> Changes:
    if gain is None and example is None:
        raise ValueError(
            f"`{scheme}(model)` needs an example of the model's input, to find the activation after each layer, or "
            "`gain=...`; got neither."
        )
    seen = trace(model, example) if gain is None else Trace()
    changes = []
    with fixed_seed(seed), torch.no_grad():
        for name, module in _chosen(model, layers, scheme):
            follower = seen.activation_of(name)
            factor = gain if gain is not None else follower.traits.gain if follower else 1.0
            before = float(module.weight.std(correction=0))
            drawn = draw(torch.empty(module.weight.shape, dtype=torch.float32), factor)
            module.weight.copy_(drawn)
            if module.bias is not None and bias is not None:
                module.bias.fill_(bias)
            why = _reason(scheme, factor, follower, traced=gain is None)
            changes.append(Change(name, f"std {before:.3g}", f"std {float(drawn.std(correction=0)):.3g} ({why})"))
    return recorded(changes, f"{scheme}(model)", "Linear, Conv or ConvTranspose layers")


def _chosen(model: nn.Module, layers: Collection[str] | None, scheme: str) -> Iterator[tuple[str, Any]]:
    found = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    unknown = sorted(set(layers or ()) - set(found))
    if unknown:
        raise ValueError(
            f"`{scheme}(layers=...)` must name Linear, Conv or ConvTranspose layers of the model, got {unknown!r}."
        )
    for name, module in found.items():
        if layers is None or name in layers:
            if "weight" not in module._parameters:
                raise ValueError(
                    f"`{scheme}(model)` cannot initialize {name!r}: its weight is parametrized. Name the other layers "
                    "with `layers=...`."
                )
            yield name, module


def _reason(scheme: str, gain: float, follower: ActivationCall | None, traced: bool) -> str:
    if scheme == "small random":
        return scheme
    after = f" for {follower.kind if follower else 'no activation'}" if traced else ""
    return f"{scheme}, gain {gain:.3g}{after}"


@contextmanager
def fixed_seed(seed: int | None) -> Iterator[None]:
    """Uses torch's CPU generator with `seed` and restores its state; does nothing when `seed` is None."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
