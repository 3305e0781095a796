import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_gradguard import fixes


class Calls(nn.Module):
    """Two hidden plain calls of different spelling and an output one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        x = torch.sigmoid(self.a(x))
        x = self.b(x).sigmoid()
        return torch.sigmoid(self.c(x))


class Untraceable(Calls):
    def forward(self, x):
        x = F.relu(self.a(x))
        if float(x.sum()) > -1:  # control flow on data
            x = self.b(x)
        return self.c(x)


class Shared(nn.Module):
    """One activation object used after every layer, as in many published examples."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])
        self.act = nn.ReLU()

    def forward(self, x):
        for layer in self.layers:
            x = self.act(layer(x))
        return x.sum(1)


@pytest.mark.parametrize(
    "new", [nn.ReLU, partial(nn.LeakyReLU, 0.1), nn.RReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.Tanh]
)
def test_modules_are_exchanged_and_the_output_activation_stays(new):
    net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Sigmoid())
    weights = [net[0].weight, net[2].weight]
    changes = fixes.replace_activations(net, torch.zeros(1, 3), new)
    assert [c.layer for c in changes] == ["1", "3"]
    assert type(net[1]) is type(new())
    assert type(net[3]) is type(new())
    assert net[1] is not net[3]
    assert isinstance(net[5], nn.Sigmoid)
    assert net[0].weight is weights[0]
    assert net[2].weight is weights[1]


def test_plain_calls_are_rewritten_and_compute_the_new_function():
    net = Calls().double()
    x = torch.randn(5, 3, dtype=torch.float64)
    changes = fixes.replace_activations(net, x, nn.ELU)
    expected = torch.sigmoid(net.c(F.elu(net.b(F.elu(net.a(x))))))
    assert torch.equal(net(x), expected)
    line = Calls.forward.__code__.co_firstlineno
    assert [c.layer for c in changes] == [f"{__file__}:{line + 1}", f"{__file__}:{line + 2}"]
    assert type(net) is Calls
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.a.weight.zero_()
    assert torch.equal(net(x), expected)
    assert not torch.equal(twin(x), expected)


def test_prelu_in_plain_calls_is_trained_with_the_model():
    net = Calls()
    fixes.replace_activations(net, torch.zeros(1, 3), nn.PReLU)
    net(torch.randn(5, 3)).sum().backward()
    slopes = [p for name, p in net.named_parameters() if name.startswith("replaced")]
    assert len(slopes) == 2
    assert all(p.grad is not None for p in slopes)


def test_an_untraceable_forward_is_named_by_file_and_line_and_nothing_changes():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
            self.rest = Untraceable()

        def forward(self, x):
            return self.rest(self.first(x))

    net = Mixed()
    line = Untraceable.forward.__code__.co_firstlineno + 1
    with pytest.raises(fixes.Untraceable, match=f"relu at .*test_fixes_activations.py:{line}"):
        fixes.replace_activations(net, torch.zeros(1, 3), nn.ELU)
    assert isinstance(net.first[1], nn.ReLU)


def test_a_shared_activation_is_replaced_everywhere_once():
    net = Shared()
    changes = fixes.replace_activations(net, torch.zeros(1, 3), nn.ELU)
    assert [str(c) for c in changes] == ["act: relu -> ELU(alpha=1.0)"]
    twice = nn.ModuleDict({"one": nn.ReLU()})
    twice["two"] = twice["one"]
    fixes.activations.replace_module(twice, "one", nn.ELU())
    assert twice["one"] is twice["two"]


def test_only_one_kind():
    net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    fixes.replace_activations(net, torch.zeros(1, 3), nn.ELU, only="sigmoid")
    assert [type(m).__name__ for m in net] == ["Linear", "ELU", "Linear", "ReLU", "Linear"]
    with pytest.raises(fixes.NothingToChange, match="hidden sigmoid activations"):
        fixes.replace_activations(net, torch.zeros(1, 3), nn.ELU, only="sigmoid")
