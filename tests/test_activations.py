"""Every activation of torch goes through the probe, the remedies that change a model, and `fixes`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_remedies import repairing
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gradguard import fixes, remedies
from lightning_gradguard.collect.activation_stats import ActivationRecord
from lightning_gradguard.findings import Finding
from lightning_gradguard.modules.activations import ELEMENTWISE, GATES, ActivationFunction, Traits, traits_of_module
from lightning_gradguard.modules.tracing import trace
from lightning_gradguard.step.gains import traits_after
from lightning_gradguard.step.pending_step import PendingStep

FINDING = Finding("poor_initialization", 0)

NORMALIZES = "normalizes over units; signal and gradient pass through it as through a LayerNorm"
RANDOM = "a random mask, the identity in expectation"
#: Classes of torch.nn.modules.activation that are no activation, and why.
OTHER_MODULES = {
    "MultiheadAttention": "a layer",
    "Softmin": NORMALIZES, "Softmax": NORMALIZES, "Softmax2d": NORMALIZES, "LogSoftmax": NORMALIZES,
}  # fmt: skip
#: Functions of torch.nn.functional that map a tensor to one of its shape and are no activation, and why.
OTHER_FUNCTIONS = {
    "softmin": NORMALIZES, "softmax": NORMALIZES, "log_softmax": NORMALIZES, "gumbel_softmax": NORMALIZES,
    "normalize": NORMALIZES, "instance_norm": NORMALIZES,
    "dropout": RANDOM, "dropout1d": RANDOM, "dropout2d": RANDOM, "dropout3d": RANDOM, "alpha_dropout": RANDOM,
    "feature_alpha_dropout": RANDOM,
}  # fmt: skip
#: What must be given to a class, and to a function beside its input.
SETTINGS: dict[str, tuple[Any, ...]] = {"Threshold": (0.1, 2.0)}
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "threshold": (0.1, 2.0), "threshold_": (0.1, 2.0), "prelu": (torch.tensor([0.3]),), "glu": (),
}  # fmt: skip
#: A few modules with other settings than the default.
VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "LeakyReLU(0.1)": lambda: nn.LeakyReLU(0.1),
    "PReLU(16)": lambda: seeded_prelu(16),
    "GELU(tanh)": lambda: nn.GELU("tanh"),
    "ELU(2)": lambda: nn.ELU(2.0),
    "Hardtanh(-2, 2)": lambda: nn.Hardtanh(-2.0, 2.0),
    "ReLU(inplace)": lambda: nn.ReLU(inplace=True),
    "LeakyReLU(inplace)": lambda: nn.LeakyReLU(0.2, inplace=True),
}
#: Functions that level off on both sides of 0 have the gain of their linear part there: 1 over its slope.
LINEAR_PART = {
    "tanh": 1.0, "sigmoid": 4.0, "special_expit": 4.0, "hardtanh": 1.0, "hardsigmoid": 6.0, "softsign": 1.0,
}  # fmt: skip


def seeded_prelu(channels: int) -> nn.PReLU:
    module = nn.PReLU(channels)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-0.2, 0.9, channels))
    return module


def found_modules() -> dict[str, Callable[[], nn.Module]]:
    """Every class of torch's module of activations."""
    names = [name for name in nn.modules.activation.__all__ if name not in OTHER_MODULES]
    return {name: lambda name=name: getattr(nn, name)(*SETTINGS.get(name, ())) for name in names}


def found_functions() -> dict[str, Callable[[Tensor], Tensor]]:
    """Every function of torch.nn.functional that maps one tensor, and the other spellings in torch."""
    named: dict[str, Callable[..., Tensor]] = {}
    for name, function in vars(F).items():
        if not name.startswith("_") and callable(function) and name not in OTHER_FUNCTIONS and maps(function, name):
            named[f"F.{name}"] = function
    for place in (torch, Tensor):
        for name in ELEMENTWISE | {f"{name}_" for name in ELEMENTWISE}:
            if hasattr(place, name):
                named[f"{place.__name__}.{name}"] = getattr(place, name)
    found = {name: called(function, name) for name, function in sorted(named.items())}
    found["torch.special.expit"] = lambda z: torch.special.expit(z)
    found["F.rrelu(training)"] = lambda z: F.rrelu(z, 0.2, 0.4, training=True)
    found["torch.rrelu(training)"] = lambda z: torch.rrelu(z, 0.2, 0.4, True)
    found["F.relu(inplace)"] = lambda z: F.relu(z, inplace=True)
    found["F.relu(input=)"] = lambda z: F.relu(input=z)
    return found


def called(function: Callable[..., Tensor], name: str) -> Callable[[Tensor], Tensor]:
    place, _, last = name.rpartition(".")
    rest = ARGUMENTS.get(last, ())
    if place == "Tensor":
        return lambda z: getattr(z, last)(*rest)
    return lambda z: function(z, *rest)


def maps(function: Callable[..., Any], name: str) -> bool:
    """Whether it maps one tensor to a tensor of floats; classes, losses and layers do not."""
    if isinstance(function, type):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = function(torch.randn(3, 4, 4), *ARGUMENTS.get(name, ()))
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError):
        return False
    return isinstance(out, Tensor) and out.is_floating_point() and (out.shape == (3, 4, 4) or name in ARGUMENTS)


MODULES = {**found_modules(), **VARIANTS}
FUNCTIONS = found_functions()


class Calls(nn.Module):
    """Two hidden calls of a function."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.out = nn.Linear(8, width), nn.Linear(16, width), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self.b(self.function(self.a(x)))))


def net_of(name: str) -> tuple[nn.Module, list[str]]:
    """A net with two hidden activations, and the names of its layers."""
    torch.manual_seed(0)
    width = 32 if "glu" in name.lower() else 16
    if name in FUNCTIONS:
        return Calls(FUNCTIONS[name], width), ["a", "b", "out"]
    make = MODULES[name]
    return nn.Sequential(nn.Linear(8, width), make(), nn.Linear(16, width), make(), nn.Linear(16, 3)), ["0", "2", "4"]


def sampled(name: str) -> tuple[nn.Module, PendingStep]:
    net, _ = net_of(name)
    return net, repairing(net, torch.randn(64, 8), torch.optim.SGD(net.parameters(), lr=0.1))


def expected_gain(name: str, kind: str) -> float:
    """From the mean squared slope at random numbers; a gate has two slopes for each output."""
    if kind in LINEAR_PART and name not in ("ReLU6", "F.relu6"):
        return LINEAR_PART[kind]
    if kind == "rrelu":  # random slopes: from their mean
        lower, upper = (0.2, 0.4) if "training" in name else (1 / 8, 1 / 3)
        return math.sqrt(2 / (1 + ((lower + upper) / 2) ** 2))
    function = FUNCTIONS[name] if name in FUNCTIONS else MODULES[name]()
    z = torch.randn(100_000, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = function(z * 1.0)
    (slope,) = torch.autograd.grad(out.sum(), z)
    return math.sqrt(out.numel() / float(slope.square().sum()))


def kind_of(records: tuple[ActivationRecord, ...]) -> str:
    (kind,) = {record.kind for record in records}
    return kind


@pytest.mark.parametrize("name", [*MODULES, *FUNCTIONS])
def test_the_probe_sees_it_with_its_gain(name: str) -> None:
    layers, step = net_of(name)[1], sampled(name)[1]
    records = step.activation_stats.activations
    assert [record.layer for record in records] == layers[:2]
    assert [record.consumers for record in records] == [(layers[1],), (layers[2],)]
    kind = kind_of(records)
    for record in records:
        assert record.traits.gain == pytest.approx(expected_gain(name, kind), rel=0.01)
        assert record.traits.elementwise == (kind not in GATES)


@pytest.mark.parametrize("name", [*MODULES, *FUNCTIONS])
def test_remedies_and_fixes_act_on_it(name: str) -> None:
    x = torch.randn(64, 8)
    net, step = sampled(name)
    layers, records = step.activation_stats.layers, step.activation_stats.activations
    kind, traits = kind_of(records), records[0].traits
    first = net.get_submodule(layers[0])
    std = (2 / (8 + first.out_features)) ** 0.5 if traits.saturating else 8**-0.5
    assert remedies.Reinitialize().apply(FINDING, step)
    assert float(first.weight.std()) == pytest.approx(traits.gain * std, rel=0.2)
    assert torch.isfinite(net(x)).all()

    net, step = sampled(name)
    swapped = remedies.SwapActivation("Hardswish" if name == "SELU" else "SELU").apply(FINDING, step)
    assert (swapped is not None) == (name in MODULES and kind not in GATES)
    assert net(x).shape == (64, 3)

    net, step = sampled(name)
    assert remedies.InsertNorm().apply(FINDING, step)
    assert [isinstance(net.get_submodule(layer), nn.Sequential) for layer in layers] == [True, True, False]
    assert torch.isfinite(net(x)).all()

    for fix in (fixes.he, fixes.glorot, fixes.lecun, fixes.orthogonal, fixes.small_random):
        net, layers = net_of(name)
        changes = fix(net, x, seed=0)
        assert [change.layer for change in changes] == layers
        assert kind == "exp" or torch.isfinite(net(x)).all()
    net, _ = net_of(name)
    assert f"gain {traits.gain:.3g} for {kind}" in fixes.he(net, x, seed=0)[0].after
    for add in (fixes.add_layer_norm, fixes.add_batch_norm):
        net, layers = net_of(name)
        assert [change.layer for change in add(net, x)] == layers[:2]
    net, _ = net_of(name)
    if kind in GATES:
        with pytest.raises(fixes.NothingToChange):
            fixes.replace_activations(net, x, nn.SELU)
    else:
        assert len(fixes.replace_activations(net, x, nn.SELU)) == 2


def test_every_name_of_the_vocabulary_was_met() -> None:
    met = {kind_of(sampled(name)[1].activation_stats.activations) for name in [*MODULES, *FUNCTIONS]}
    assert met == ELEMENTWISE | GATES.keys()


def test_the_tables_of_exclusions_name_what_torch_has() -> None:
    assert set(OTHER_MODULES) <= set(nn.modules.activation.__all__)
    assert all(hasattr(F, name) for name in OTHER_FUNCTIONS)


#: Modules for which theory says that the output keeps its scale through depth, or loses it as a power of depth only
#: (Glorot and Bengio 2010; He et al. 2015; Klambauer et al. 2017), with the range measured for three seeds, widened.
DEEP: dict[str, tuple[Callable[[], nn.Module], float, float]] = {
    **{name: (getattr(nn, name), 0.5, 1.5) for name in ("ReLU", "LeakyReLU", "PReLU", "RReLU", "ReLU6", "SELU")},
    **{f"LeakyReLU({slope})": (lambda slope=slope: nn.LeakyReLU(slope), 0.5, 1.5) for slope in (0.1, 0.2, 0.5)},
    **{name: (getattr(nn, name), 0.3, 3.0) for name in ("ELU", "CELU", "GELU", "Mish", "Hardtanh", "Sigmoid")},
    "PReLU(64)": (lambda: seeded_prelu(64), 0.5, 1.5),
    "Tanh": (nn.Tanh, 0.1, 1.0),
    "Softsign": (nn.Softsign, 0.02, 1.0),
    "GLU": (nn.GLU, 0.3, 10.0),
}


@pytest.mark.parametrize("name", DEEP)
def test_reinitialize_keeps_the_scale_of_a_deep_net(name: str) -> None:
    make, low, high = DEEP[name]
    torch.manual_seed(0)
    width = 128 if name == "GLU" else 64
    net = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(64, width), make())), nn.Linear(64, 3))
    x = torch.randn(128, 64)
    assert remedies.Reinitialize().apply(FINDING, repairing(net, x, torch.optim.SGD(net.parameters(), lr=0.1)))
    with torch.no_grad():
        assert low < float(net[:-1](x).square().mean().sqrt()) < high


class Swish(nn.Module):
    """More than the sigmoid in it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Pooled(nn.Module):
    """No children and no weights, but not elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(F.avg_pool1d(x, 2))


class Pair(nn.Module):
    """Takes two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(x) * y


def test_a_module_counts_as_a_whole() -> None:
    assert fixes.gain_of(Swish()) == pytest.approx(fixes.gain_of(nn.SiLU()), rel=1e-6)
    net = nn.Sequential(nn.Linear(8, 16), Swish(), nn.Linear(16, 3))
    step = repairing(net, torch.randn(32, 8), torch.optim.SGD(net.parameters(), lr=0.1))
    assert traits_after(net, "0", step.activation_stats) == traits_of_module(nn.SiLU())
    assert trace(net, torch.randn(2, 8)).activation_of("0").traits == traits_of_module(nn.SiLU())


@pytest.mark.parametrize(
    "module", [Pooled(), Pair(), nn.Softmax(1), nn.Linear(1, 1), nn.GLU(), nn.Sequential(nn.ReLU())]
)
def test_other_modules_are_no_activations(module: nn.Module) -> None:
    assert traits_of_module(module) is None
    with pytest.raises(ValueError, match="elementwise"):
        fixes.gain_of(module)


@pytest.mark.parametrize("function", [F.glu, lambda z: F.softmax(z, 0), lambda z: z.sum(), lambda z: z.log()])
def test_other_functions_have_no_gain(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"`gain_of\(activation\)` must be given an elementwise .* got <function"):
        fixes.gain_of(function)


def test_a_module_that_is_exchanged_after_the_sample_counts_as_the_present_one() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 3))
    step = repairing(net, torch.randn(32, 8), torch.optim.SGD(net.parameters(), lr=0.1))
    remedies.SwapActivation().apply(FINDING, step)
    assert traits_after(net, "0", step.activation_stats) == traits_of_module(nn.SELU())


def test_flat_ends_are_found_by_value() -> None:
    both = (nn.Sigmoid(), nn.Tanh(), nn.Hardtanh(), nn.Hardsigmoid(), nn.Softsign(), nn.ReLU6())
    one = (
        nn.ReLU(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.Softplus(), nn.Mish(), nn.Hardswish(),
        nn.LogSigmoid(), nn.Threshold(0.0, 1.0), nn.LeakyReLU(0.0),
    )  # fmt: skip
    neither = (nn.LeakyReLU(), nn.PReLU(), nn.RReLU(), nn.Tanhshrink(), nn.Softshrink(), nn.Hardshrink(), nn.Identity())
    for modules, expected in ((both, (True, False)), (one, (False, True)), (neither, (False, False))):
        for module in modules:
            found = traits_of_module(module)
            assert (found.saturating, found.one_sided) == expected, module


def test_prelus_slopes_are_copied_and_follow_the_input() -> None:
    weight = nn.Parameter(torch.tensor([0.1, 0.7]))
    function = ActivationFunction.of_call("prelu", torch.prelu, (torch.zeros(1, 2), weight), {})
    z = -torch.ones(3, 2)
    assert torch.equal(function(z), F.prelu(z, weight))
    assert float(function(torch.tensor([-1.0]))) == pytest.approx(-0.5)  # the root of the mean square
    assert function.traits.gain == pytest.approx(math.sqrt(2 / 1.25), rel=1e-6)
    with torch.no_grad():
        weight.zero_()
    assert function(z).any()


def test_a_constant_has_the_identitys_gain() -> None:
    assert fixes.gain_of(lambda z: 0.0 * z) == 1.0
    assert traits_of_module(nn.Threshold(100.0, 2.0)) == Traits(zero_at_zero=False, flat_below=0.0)
