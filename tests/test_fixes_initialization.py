import math

import pytest
import torch
from torch import nn

from lightning_gradguard import fixes


def mlp(act, width=400, depth=3):
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), act())]
    return nn.Sequential(*layers, nn.Linear(width, 100))


@pytest.mark.parametrize(
    ("fix", "uniform", "variance"),
    [
        (fixes.glorot, False, lambda n, m: 2 / (n + m)),
        (fixes.glorot, True, lambda n, m: 2 / (n + m)),
        (fixes.he, False, lambda n, m: 1 / n),
        (fixes.he, True, lambda n, m: 1 / n),
        (fixes.lecun, False, lambda n, m: 1 / n),
        (fixes.lecun, True, lambda n, m: 1 / n),
    ],
)
def test_variance_is_the_textbooks(fix, uniform, variance):
    layer = nn.Sequential(nn.Linear(600, 300))
    fix(layer, torch.zeros(1, 600), uniform=uniform, seed=0)
    weight = layer[0].weight.detach()
    assert float(weight.var()) == pytest.approx(variance(600, 300), rel=0.02)
    assert float(weight.mean().abs()) < 4 * math.sqrt(variance(600, 300) / weight.numel())
    if uniform:
        assert float(weight.abs().max()) <= math.sqrt(3 * variance(600, 300)) + 1e-7


def test_he_uniform_bound_before_relu_is_root_six_over_fan_in():
    net = mlp(nn.ReLU)
    fixes.he(net, torch.zeros(1, 400), uniform=True, seed=0)
    assert float(net[0].weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / 400), rel=1e-3)


@pytest.mark.parametrize(
    ("act", "gain"),
    [
        (nn.ReLU, math.sqrt(2)),
        (lambda: nn.LeakyReLU(0.2), math.sqrt(2 / 1.04)),
        (nn.Tanh, 1.0),
        (nn.Sigmoid, 4.0),
        (nn.Identity, 1.0),
        (nn.Hardtanh, 1.0),
    ],
)
def test_gain_follows_the_activation_and_the_output_layer_has_none(act, gain):
    net = mlp(act)
    changes = fixes.glorot(net, torch.zeros(1, 400), seed=0)
    assert [c.layer for c in changes] == ["0", "2", "4", "6"]
    assert float(net[2].weight.detach().std()) == pytest.approx(gain / 20, rel=0.02)
    assert float(net[6].weight.detach().std()) == pytest.approx(math.sqrt(2 / 500), rel=0.02)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU(0.1), nn.SELU(), nn.ELU(), nn.GELU(), nn.SiLU()])
def test_gain_of_agrees_with_monte_carlo(act):
    z = torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (slope,) = torch.autograd.grad(act(z).sum(), z)
    assert fixes.gain_of(act) == pytest.approx(1 / float(slope.square().mean().sqrt()), rel=0.01)


def test_gain_of_agrees_with_torch_where_torch_is_right():
    for name, param in (("relu", None), ("linear", None), ("leaky_relu", 0.2)):
        act = {"relu": nn.ReLU(), "linear": None, "leaky_relu": nn.LeakyReLU(0.2)}[name]
        assert fixes.gain_of(act) == pytest.approx(nn.init.calculate_gain(name, param), rel=1e-3)


def test_same_seed_same_weights_in_place_and_callers_random_state_untouched():
    net = mlp(nn.ReLU, 20)
    kept = [id(p) for p in net.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fixes.he(net, torch.zeros(1, 20), seed=1)
    assert torch.equal(torch.rand(3), expected)
    first = [p.clone() for p in net.parameters()]
    fixes.he(net, torch.zeros(1, 20), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, net.parameters(), strict=True))
    fixes.he(net, torch.zeros(1, 20), seed=2)
    assert not torch.equal(first[0], net[0].weight)
    assert [id(p) for p in net.parameters()] == kept


def test_biases_and_chosen_layers():
    net = mlp(nn.ReLU, 20)
    untouched = net[2].weight.clone(), net[0].bias.clone()
    fixes.he(net, gain=1.0, layers=["0"], bias=None)
    assert torch.equal(net[2].weight, untouched[0])
    assert torch.equal(net[0].bias, untouched[1])
    fixes.he(net, gain=1.0, layers=["0"], bias=0.01)
    assert net[0].bias.tolist() == [pytest.approx(0.01)] * 20
    with pytest.raises(ValueError, match=r"he\(layers=...\)` must name Linear, .* got \['nine'\]"):
        fixes.he(net, gain=1.0, layers=["nine"])


def test_convolutions_use_the_receptive_field():
    net = nn.Sequential(nn.Conv2d(16, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 2))
    fixes.he(net, torch.zeros(1, 16, 8, 8), seed=0)
    assert float(net[0].weight.detach().std()) == pytest.approx(math.sqrt(2 / (16 * 9)), rel=0.02)


def test_orthogonal_and_small_random():
    net = nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 30))
    fixes.orthogonal(net, torch.zeros(1, 30), seed=0)
    singular = torch.linalg.svdvals(net[0].weight.detach())
    assert torch.allclose(singular, torch.full((30,), math.sqrt(2)), atol=1e-5)
    fixes.small_random(net, std=0.1, uniform=True, seed=0)
    assert 0.095 < float(net[0].weight.detach().abs().max()) <= 0.1
    with pytest.raises(ValueError, match=r"small_random\(std=...\)` must be positive, got 0"):
        fixes.small_random(net, std=0)


def test_nothing_to_do_and_missing_example_are_errors():
    with pytest.raises(fixes.NothingToChange, match="Linear, Conv"):
        fixes.he(nn.ReLU(), gain=1.0)
    with pytest.raises(ValueError, match="needs an example"):
        fixes.glorot(nn.Linear(2, 2))
    weird = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="parametrized"):
        fixes.he(weird, gain=1.0)
