import pytest
import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.modules.tracing import trace


def deep(depth):
    hidden = [m for _ in range(depth) for m in (nn.Linear(4, 4), nn.Tanh())]
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), *hidden, nn.Linear(4, 1))


@pytest.mark.parametrize("keep", [0, 1, 3, 9])
def test_so_many_are_left_and_they_compute_the_same(keep):
    net = deep(10)
    changes = fixes.remove_layers(net, torch.zeros(1, 3), keep)
    assert len(changes) == 10 - keep
    assert len(trace(net, torch.zeros(1, 3)).layers) == keep + 2
    left = nn.Sequential(*(m for m in net if not isinstance(m, nn.Identity)))
    x = torch.randn(2, 3)
    assert torch.equal(net(x), left(x))


def test_transformer_layers_are_blocks_too():
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 4, enable_nested_tensor=False
    )
    assert len(fixes.remove_layers(encoder, torch.zeros(1, 3, 8), keep=1)) == 3


def test_nothing_to_remove_is_an_error():
    with pytest.raises(fixes.NothingToChange, match="more than 3 blocks"):
        fixes.remove_layers(deep(3), torch.zeros(1, 3), keep=3)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        fixes.remove_layers(deep(3), torch.zeros(1, 3), keep=-1)
