import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import fixes


def received(net, layer, x):
    seen = []
    handle = net.get_submodule(layer).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(x)
    handle.remove()
    return seen[0]


def test_features_are_standardized_with_training_statistics():
    x = torch.randn(503, 3, dtype=torch.float64) * torch.tensor([1e-3, 1.0, 300.0]) + torch.tensor([1e4, 0.0, -5.0])
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    loader = DataLoader(TensorDataset(x, torch.zeros(503)), batch_size=50)
    (change,) = fixes.normalize_inputs(net, loader)
    assert change.layer == "1"
    inside = received(net, "1.1", x)
    assert torch.allclose(inside.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(inside.std(0, correction=0), torch.ones(3, dtype=torch.float64), atol=1e-8)


def test_channels_of_a_convolution():
    x = torch.randn(64, 3, 5, 5) * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1) + 7
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 1))
    fixes.normalize_inputs(net, x.split(10))
    inside = received(net, "0.1", x)
    assert torch.allclose(inside.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(inside.std((0, 2, 3)), torch.ones(3), atol=1e-3)


def test_constant_features_stay_finite_and_statistics_travel_in_the_state_dict():
    x = torch.randn(40, 2)
    x[:, 1] = 8.0
    net = nn.Sequential(nn.Linear(2, 1))
    fixes.normalize_inputs(net, [x])
    assert torch.equal(received(net, "0.1", x)[:, 1], torch.zeros(40))
    assert {"0.0.mean", "0.0.std"} <= set(net.state_dict())


def test_a_later_layer_and_the_errors():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 1))
    tokens = torch.randint(0, 5, (20, 4))
    with pytest.raises(ValueError, match=r"floating-point features, but '0' receives torch\.int64"):
        fixes.normalize_inputs(net, [tokens])
    with torch.no_grad():
        net[0].weight.add_(10)
    assert fixes.normalize_inputs(net, [tokens], layer="1")[0].layer == "1"
    with pytest.raises(ValueError, match="at least one batch, got none"):
        fixes.normalize_inputs(net, [])
    good = torch.randn(1000, 2)
    good = (good - good.mean(0)) / good.std(0)
    with pytest.raises(fixes.NothingToChange):
        fixes.normalize_inputs(nn.Sequential(nn.Linear(2, 1)), [good])
