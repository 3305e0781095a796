import torch
from torch import nn
from torch.nn import functional as F

from lightning_gradguard.modules.tracing import trace


class Tangle(nn.Module):
    """Modules and plain calls, a norm and an addition in between, a bare parameter used as weight."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4 * 36, 5)  # registered first, called third
        self.first = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.PReLU(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Parameter(torch.eye(5))

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        x = x + F.leaky_relu(self.second(x), 0.2)
        x = F.elu_(self.last(x.flatten(1)))
        return torch.sigmoid(x @ self.head.t())


def test_activation_follows_the_data_not_the_order_of_registration():
    seen = trace(Tangle(), torch.zeros(2, 1, 8, 8))
    after = {name: seen.activation_of(name) for name in seen.layers}
    assert {n: a.kind for n, a in after.items()} == {
        "first": "prelu", "second": "leaky_relu", "last": "elu", "": "sigmoid",
    }  # fmt: skip
    assert [a.hidden for a in seen.activations] == [True, True, True, False]
    assert [a.module for a in seen.activations] == [True, False, False, False]
    assert seen.layers["second"].input_shape == (2, 4, 6, 6)


def test_plain_calls_are_located_in_the_users_file():
    seen = trace(Tangle(), torch.zeros(1, 1, 8, 8))
    line = Tangle.forward.__code__.co_firstlineno
    assert [a.where for a in seen.activations] == [f"{__file__}:{line + k}" for k in (1, 2, 3, 4)]


def test_settings_of_the_call_are_kept():
    leaky = trace(Tangle(), torch.zeros(1, 1, 8, 8)).activations[1]
    assert leaky.apply(torch.tensor([-1.0])).item() == torch.tensor(-0.2).item()


def test_transformer_encoder_is_followed_off_the_fast_path():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    seen = trace(encoder, torch.zeros(2, 3, 8))
    assert seen.activation_of("layers.1.linear1").kind == "relu"
    assert seen.activation_of("layers.1.linear2") is None


def test_mode_buffers_and_hooks_are_as_before():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.ReLU(), nn.Linear(3, 1))
    net[2].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    trace(net, torch.ones(4, 2))
    assert [m.training for m in net] == [True, True, False, True, True]
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())


def test_recurrent_and_parametrized_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 4, batch_first=True)
            self.mid = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.out = nn.Linear(4, 1)

        def forward(self, x):
            return self.out(self.mid(self.rnn(x)[0][:, -1]).tanh())

    seen = trace(Net(), torch.zeros(2, 5, 3))
    assert list(seen.layers) == ["rnn", "mid", "out"]
    assert seen.activation_of("mid").kind == "tanh"
    assert seen.activation_of("out") is None


def test_several_arguments_and_keywords():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(3, 2)

        def forward(self, x, y):
            return torch.relu(self.a(x)) + self.b(y)

    x, y = torch.zeros(1, 2), torch.zeros(1, 3)
    for example in ((x, y), {"y": y, "x": x}):
        seen = trace(Two(), example)
        assert seen.activation_of("a").kind == "relu"
        assert seen.activation_of("b") is None
