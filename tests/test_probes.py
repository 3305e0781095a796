from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_gradguard.collect.activation_probe import ActivationProbe
from lightning_gradguard.collect.activation_stats import ActivationStats


def look(net: nn.Module, x: torch.Tensor) -> ActivationStats:
    probes = ActivationProbe(net)
    probes.open()
    out = net(x)
    loss = (out[0] if isinstance(out, tuple) else out).square().mean()
    probes.shut()
    loss.backward()
    seen = probes.read()
    assert seen is not None
    return seen


def mlp(act: nn.Module, bias: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 64), act, nn.Linear(64, 2))
    nn.init.constant_(net[0].bias, bias)
    return net


def test_activations_are_measured_by_their_own_slope() -> None:
    x = torch.randn(512, 4)
    for act, bias, flat in [
        (nn.ReLU(), -50.0, 1.0),
        (nn.ReLU(), 50.0, 0.0),
        (nn.Tanh(), 20.0, 1.0),
        (nn.GELU(), -9.0, 1.0),
    ]:
        seen = look(mlp(act, bias), x).activations[0]
        assert seen.flat == pytest.approx(flat)
        assert seen.dead.mean() == flat
        assert (seen.layer, seen.owner, seen.rows) == ("0", "1", 512)


def test_plain_calls_and_in_place_activations_are_seen() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu_(self.a(x)).tanh())

    assert [a.kind for a in look(Net(), torch.randn(8, 4)).activations] == ["relu", "tanh"]


def test_units_of_a_convolution_are_its_channels() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    nn.init.constant_(net[0].bias, -100.0)
    seen = look(net, torch.randn(8, 1, 4, 4)).activations[0]
    assert len(seen.dead) == 6
    assert seen.dead.all()
    assert seen.rows == 8 * 4


def test_a_constant_layer_and_identical_units_show() -> None:
    net = mlp(nn.Tanh())
    nn.init.zeros_(net[0].weight)
    seen = look(net, torch.randn(16, 4))
    assert seen.spread[0] == pytest.approx(0.0, abs=1e-6)
    assert seen.constant_layers(0.005) == ("0",)
    nn.init.ones_(net[0].weight)
    assert look(net, torch.randn(16, 4)).identical_units[0] == 1.0


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"num_layers": 2}, {"bidirectional": True}])
def test_gradient_through_time_equals_autograds(kind: type[nn.RNNBase], options: dict) -> None:
    torch.manual_seed(0)
    rnn = kind(3, 5, **options)
    x = torch.randn(4, 4, 3)
    seen = look(rnn, x)
    leaf = x.clone().requires_grad_()
    rnn(leaf)[0].square().mean().backward()
    over = (0, 2) if options.get("batch_first") else (1, 2)
    np.testing.assert_allclose(next(iter(seen.time.values())), leaf.grad.square().mean(over).sqrt().numpy(), rtol=1e-5)


def test_cells_and_packed_sequences_are_seen_through_time() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = (torch.zeros(len(x), 5), torch.zeros(len(x), 5))
            for t in range(x.shape[1]):
                state = self.cell(x[:, t], state)
            return state[0]

    assert len(look(Loop(), torch.randn(4, 7, 3)).time["cell"]) == 7

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 5, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4]), batch_first=True)
            return self.rnn(packed)[1]

    assert len(look(Packed(), torch.randn(2, 6, 3)).time["rnn"]) == 6


def test_a_sample_draws_no_random_number_and_changes_no_gradient() -> None:
    def grads(watched: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 8)),
            *(nn.RReLU(), nn.Linear(8, 8), nn.PReLU(8), nn.Linear(8, 2)),
        )
        rnn = nn.LSTM(2, 3, num_layers=2, dropout=0.5)
        x = torch.randn(16, 4)
        probes = ActivationProbe(nn.ModuleList([net, rnn]))
        probes.open() if watched else None
        loss = rnn(net(x)[:, None])[0].square().mean()
        probes.shut()
        loss.backward()
        probes.read()
        return [*(p.grad for p in [*net.parameters(), *rnn.parameters()]), torch.get_rng_state(), net[1].running_var]

    for alone, watched in zip(grads(False), grads(True), strict=True):
        assert torch.equal(alone, watched)


def test_a_compiled_module_cannot_be_sampled() -> None:
    assert ActivationProbe(mlp(nn.ReLU())).possible
    assert not ActivationProbe(nn.ModuleList([torch.compile(mlp(nn.ReLU()))])).possible


def test_a_dropped_sample_is_not_read() -> None:
    net = mlp(nn.ReLU())
    probes = ActivationProbe(net)
    probes.open()
    probes.drop()
    net(torch.randn(2, 4))
    assert probes.read() is None


def test_who_takes_an_activations_very_output_is_known() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.left, self.right = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3)
            self.after = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.trunk(x))
            late = nn.functional.dropout(torch.relu(self.right(h) + self.left(h).sum(1, keepdim=True)), 0.5)
            return self.after(late)

    trunk, right = look(Net(), torch.randn(8, 4)).activations
    assert trunk.consumers == ("right", "left")
    assert (right.layer, right.consumers) == ("left", ())  # dropout lies between


def test_a_flattened_map_is_the_same_output() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(24, 2))
    assert look(net, torch.randn(8, 1, 4, 4)).activations[0].consumers == ("3",)
    pooled = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 2))
    assert look(pooled, torch.randn(8, 1, 4, 4)).activations[0].consumers == ()


def test_a_branch_that_begins_closed_does_not_block_what_goes_around_it() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
            nn.init.zeros_(self.inner[2].weight), nn.init.zeros_(self.inner[2].bias)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)

    seen = look(nn.Sequential(nn.Linear(4, 4), Branch(), nn.Linear(4, 3)), torch.randn(16, 4))
    assert seen.spread[2] == 0.0
    assert seen.constant_layers(0.005) == ()
    assert seen.last_input_spread > 0.1


def test_weights_that_are_computed_belong_to_their_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))
            self.second = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
            self.head = nn.Parameter(torch.randn(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.second(torch.relu(self.first(x))))
            penalty = self.head.square().sum()
            return h @ self.head.T + 0.0 * penalty

    x = torch.randn(16, 4)
    net = Net()
    seen = look(net, x)
    assert seen.layers == ("first.parametrizations.weight", "second.parametrizations.weight", "head")
    assert [a.consumers for a in seen.activations] == [(seen.layers[1],), ("head",)]
    assert seen.output_rms[-1] == pytest.approx(float(net.eval()(x).square().mean().sqrt()), rel=0.05)


def test_learned_inputs_of_a_layer_are_its_data() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.a, self.out = nn.Parameter(torch.randn(5, 4)), nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.a(self.queries * 1.0)) + x.mean())

    seen = look(Net(), torch.randn(16, 4))
    assert seen.layers == ("a", "out")
    assert seen.activations[0].layer == "a"


def test_functions_of_positions_belong_to_no_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x) * torch.cos(torch.arange(8.0).expand(len(x), 8)))

    assert look(Net(), torch.randn(16, 4)).activations == ()
