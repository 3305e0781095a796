import pytest
import torch
from torch import nn

from lightning_gradguard import fixes


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def test_batch_norm_before_the_activation_normalizes_its_input():
    net = mlp()
    weights = [net[i].weight for i in (0, 2, 4)]
    changes = fixes.add_batch_norm(net, torch.zeros(2, 4))
    assert [c.layer for c in changes] == ["0", "2"]
    assert all(a is b for a, b in zip([net[0][0].weight, net[2][0].weight, net[4].weight], weights, strict=True))
    received = []
    net[1].register_forward_pre_hook(lambda _, args: received.append(args[0]))
    net(5 + 100 * torch.randn(256, 4))
    assert torch.allclose(received[0].mean(0), torch.zeros(8), atol=1e-4)
    assert torch.allclose(received[0].std(0), torch.ones(8), atol=0.01)


def test_batch_norm_after_the_activation():
    net = mlp()
    fixes.add_batch_norm(net, torch.zeros(2, 4), before=False)
    assert [type(m).__name__ for m in net[1]] == ["ReLU", "BatchNorm1d"]
    assert isinstance(net[0], nn.Linear)


@pytest.mark.parametrize(
    ("conv", "shape", "norm"),
    [
        (nn.Conv1d, (2, 3, 9), nn.BatchNorm1d),
        (nn.Conv2d, (2, 3, 9, 9), nn.BatchNorm2d),
        (nn.Conv3d, (2, 3, 9, 9, 9), nn.BatchNorm3d),
    ],
)
def test_dimension_follows_the_layer(conv, shape, norm):
    net = nn.Sequential(conv(3, 4, 3), nn.ReLU(), conv(4, 2, 3))
    fixes.add_batch_norm(net, torch.zeros(shape))
    assert type(net[0][1]) is norm
    net(torch.randn(shape))


def test_layer_norm_for_sequences_and_tiny_batches():
    net = mlp()
    fixes.add_layer_norm(net, torch.zeros(1, 5, 4))
    assert torch.isfinite(net(torch.randn(1, 5, 4))).all()
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    fixes.add_layer_norm(conv, torch.zeros(1, 3, 9, 9))
    assert isinstance(conv[0][1], nn.GroupNorm)


def test_dtype_and_mode_are_the_models():
    net = mlp().double().eval()
    fixes.add_batch_norm(net, torch.zeros(2, 4, dtype=torch.float64))
    assert net[0][1].weight.dtype == torch.float64
    assert not net[0][1].training


def test_every_reason_not_to_is_raised_before_anything_changes():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.b(self.act(self.b(self.act(self.a(x)))))

    net = Reused()
    with pytest.raises(ValueError, match="'b': it is called 2 times"):
        fixes.add_batch_norm(net, torch.zeros(2, 4))
    assert isinstance(net.a, nn.Linear)
    with pytest.raises(ValueError, match="is shared, a function or a gate"):
        fixes.add_batch_norm(net, torch.zeros(2, 4), before=False)
    with pytest.raises(ValueError, match="Use `add_layer_norm`"):
        fixes.add_batch_norm(mlp(), torch.zeros(2, 5, 4))
    with pytest.raises(fixes.NothingToChange):
        fixes.add_batch_norm(nn.Sequential(nn.Linear(2, 2)), torch.zeros(2, 2))


def test_pre_norm_gives_the_identity_path():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    changes = fixes.pre_norm(encoder)
    assert [c.layer for c in changes] == ["layers.0", "layers.1", "layers.2", "norm"]
    for block in encoder.layers:  # without branches only the final norm is left
        for p in (
            block.self_attn.out_proj.weight,
            block.self_attn.out_proj.bias,
            block.linear2.weight,
            block.linear2.bias,
        ):
            nn.init.zeros_(p)
    x = torch.randn(2, 3, 8)
    assert torch.allclose(encoder(x), encoder.norm(x), atol=1e-6)
    with pytest.raises(fixes.NothingToChange):
        fixes.pre_norm(encoder)
