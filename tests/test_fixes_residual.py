import pytest
import torch
from torch import nn

from lightning_gradguard import fixes


def deep(depth=6, width=8):
    hidden = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), *hidden, nn.Linear(width, 1))


def test_blocks_compute_x_plus_block():
    net, plain = deep(2), deep(2)
    plain.load_state_dict(net.state_dict())
    changes = fixes.add_residual(net, torch.zeros(1, 3), every=2, scale=0.5)
    assert [str(c) for c in changes] == ["2: 2, 3, 4, 5 -> x + 0.5 (2, 3, 4, 5)(x)"]
    x = torch.randn(7, 3)
    h = plain[1](plain[0](x))
    assert torch.allclose(net(x), plain[6](h + 0.5 * plain[2:6](h)))


def test_the_gradient_has_a_path_that_nothing_multiplies():
    net = deep(20)
    with torch.no_grad():
        for p in net[2:-1].parameters():
            p.zero_()
    net(torch.ones(1, 3)).sum().backward()
    assert float(net[0].weight.grad.abs().sum()) == 0
    fixes.add_residual(net, torch.zeros(1, 3))
    with torch.no_grad():
        net[0].weight.fill_(0.1)
    net(torch.ones(1, 3)).sum().backward()
    assert float(net[0].weight.grad.abs().sum()) > 0


def test_module_lists_and_named_blocks():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.inlet, self.layers = nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
            self.outlet = nn.Linear(4, 4)

        def forward(self, x):
            x = self.inlet(x)
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.outlet(x)

    net = Stack()
    assert [c.layer for c in fixes.add_residual(net, torch.zeros(1, 3), every=1)] == [
        "layers.0",
        "layers.1",
        "layers.2",
    ]
    net = Stack()
    assert [c.layer for c in fixes.add_residual(net, torch.zeros(1, 3), blocks=["layers.1"])] == ["layers.1"]
    assert isinstance(net.layers[1], fixes.Residual)
    with pytest.raises(ValueError, match=r"'inlet': \(1, 3\) -> \(1, 4\)"):
        fixes.add_residual(net, torch.zeros(1, 3), blocks=["inlet"])


def test_the_output_layer_is_no_block_even_where_its_shape_agrees():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    assert [c.layer for c in fixes.add_residual(net, torch.zeros(1, 4), every=1)] == ["0", "2"]


def test_convolutions_that_shrink_are_left_alone():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert [c.layer for c in fixes.add_residual(net, torch.zeros(1, 4, 8, 8), every=1)] == ["2"]
    with pytest.raises(fixes.NothingToChange):
        fixes.add_residual(nn.Sequential(nn.Linear(2, 3)), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        fixes.add_residual(net, torch.zeros(1, 4, 8, 8), every=0)
