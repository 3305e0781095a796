"""Remedies that set weights, biases and decay: exact on the units and gates meant, and undone by the course."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from test_remedies import repairing
from torch import nn

from lightning_gradguard import remedies
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import Finding
from lightning_gradguard.step.pending_step import PendingStep

FINDING = Finding("x", 3)


def stepped(optimizer: torch.optim.Optimizer) -> None:
    """Gives every parameter moments other than zero."""
    for p in (p for group in optimizer.param_groups for p in group["params"]):
        p.grad = torch.ones_like(p)
    optimizer.step()


def dead_net(lenet: bool = False) -> tuple[nn.Sequential, PendingStep]:
    """A net whose units 1 and 3 of the first layer are silent everywhere."""
    torch.manual_seed(0)
    if lenet:
        net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 9, 3))
        x = torch.randn(32, 2, 5, 5)
    else:
        net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        x = torch.randn(64, 8)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    stepped(optimizer)
    with torch.no_grad():
        net[0].bias[[1, 3]] = -100.0
    return net, repairing(net, x, optimizer)


def test_only_dead_units_are_drawn_anew_and_the_answers_stay() -> None:
    net, step = dead_net()
    before, x = copy.deepcopy(net), torch.randn(64, 8)
    state = torch.get_rng_state()
    assert str(remedies.ReviveUnits().apply(FINDING, step)) == "re-initialized 2 dead units of 1 layers"
    assert torch.equal(torch.get_rng_state(), state)
    changed = (net[0].weight != before[0].weight).any(1)
    assert changed.tolist() == [False, True, False, True, False, False]
    assert net[0].bias[[1, 3]].tolist() == [0.0, 0.0]
    assert not net[2].weight[:, [1, 3]].any()
    assert torch.equal(net[2].weight[:, [0, 2, 4, 5]], before[2].weight[:, [0, 2, 4, 5]])
    assert torch.equal(net[4].weight, before[4].weight)
    assert net[:2](x)[:, [1, 3]].any(0).all()
    torch.testing.assert_close(net(x), before(x))
    assert remedies.ReviveUnits().apply(FINDING, repairing(net, x, step.optimizer)) is None


def test_the_moments_of_revived_units_are_forgotten_and_no_others() -> None:
    net, step = dead_net()
    remedies.ReviveUnits().apply(FINDING, step)
    for name in ("exp_avg", "exp_avg_sq"):
        rows = step.optimizer.state[net[0].weight][name]
        assert not rows[[1, 3]].any()
        assert rows[[0, 2, 4, 5]].all()
        assert step.optimizer.state[net[0].bias][name].bool().tolist() == [True, False, True, False, True, True]
        columns = step.optimizer.state[net[2].weight][name]
        assert columns.bool().all(0).tolist() == [True, False, True, False, True, True]
    assert float(step.optimizer.state[net[0].weight]["step"]) == 1


def test_channels_of_a_convolution_are_followed_through_flatten() -> None:
    net, step = dead_net(lenet=True)
    before, x = copy.deepcopy(net), torch.randn(16, 2, 5, 5)
    assert str(remedies.ReviveUnits().apply(FINDING, step)) == "re-initialized 2 dead units of 1 layers"
    gone = (net[3].weight == 0).all(0).reshape(5, 9)
    assert gone.all(1).tolist() == gone.any(1).tolist() == [False, True, False, True, False]
    torch.testing.assert_close(net(x), before(x))


def test_drawn_with_the_gain_of_the_activation() -> None:
    net = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 2))
    nn.init.constant_(net[0].bias, -100.0)
    remedies.ReviveUnits().apply(FINDING, repairing(net, torch.randn(32, 400), torch.optim.SGD(net.parameters(), 0.1)))
    assert net[0].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)


def test_a_layer_whose_taker_is_not_known_is_revived_and_branches_are_left_alone() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(12, 2)
            nn.init.constant_(self.a.bias, -100.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], 1))

    net = Branches()
    before = copy.deepcopy(net)
    step = repairing(net, torch.randn(64, 6), torch.optim.SGD(net.parameters(), 0.1))
    assert str(remedies.ReviveUnits().apply(FINDING, step)) == "re-initialized 6 dead units of 1 layers"
    for name in ("b.weight", "b.bias", "out.weight"):
        assert torch.equal(net.get_parameter(name), before.get_parameter(name))


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU])
def test_forget_bias_follows_the_length_and_only_its_moments_are_forgotten(make: type[nn.RNNBase]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = make(2, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    stepped(optimizer)
    step, before = repairing(net, torch.randn(8, 41, 2), optimizer), copy.deepcopy(net)
    assert str(remedies.SetForgetBias().apply(FINDING, step)) == "set the forget bias of 1 recurrent layers to 3.69"
    total = net.rnn.bias_ih_l0 + net.rnn.bias_hh_l0
    assert total[4:8].tolist() == pytest.approx([math.log(40)] * 4)
    assert torch.equal(total[8:], (before.rnn.bias_ih_l0 + before.rnn.bias_hh_l0)[8:])
    moments = optimizer.state[net.rnn.bias_hh_l0]["exp_avg"]
    assert moments.bool().tolist() == [not 4 <= i < 8 for i in range(len(moments))]
    assert torch.equal(net.rnn.weight_hh_l0, before.rnn.weight_hh_l0)
    assert remedies.SetForgetBias().apply(FINDING, step) is None


def test_no_recurrence_no_forget_bias() -> None:
    assert remedies.SetForgetBias().apply(FINDING, dead_net()[1]) is None


def test_decay_forgets_the_weights_so_often_in_the_run() -> None:
    net = nn.Linear(4, 2)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    step = repairing(net, torch.randn(8, 4), sgd)
    assert str(remedies.IncreaseWeightDecay(times=4.0).apply(FINDING, step)) == "increased weight decay from 0 to 0.02"
    assert remedies.IncreaseWeightDecay(times=4.0).apply(FINDING, step) is None
    assert sgd.state_dict()["param_groups"][0]["weight_decay"] == pytest.approx(0.02)
    for _ in range(1000):
        sgd.zero_grad()
        (0.0 * net(torch.ones(1, 4))).sum().backward()
        sgd.step()
    assert net.weight.norm().item() < 0.1


def test_decay_spares_the_groups_that_have_none_beside_others_and_larger_ones() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    groups = [
        {"params": [net[0].weight], "weight_decay": 1e-4},
        {"params": [net[0].bias, net[1].bias], "weight_decay": 0.0},
        {"params": [net[1].weight], "weight_decay": 10.0},
    ]
    adam = torch.optim.AdamW(groups, lr=1e-2)
    remedies.IncreaseWeightDecay().apply(FINDING, repairing(net, torch.randn(8, 4), adam))
    assert [group["weight_decay"] for group in adam.param_groups] == [pytest.approx(0.5), 0.0, 10.0]


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: remedies.ReviveUnits(rows=0), "at least 1"),
        (lambda: remedies.IncreaseWeightDecay(times=0.0), "above 0"),
    ],
)
def test_configuration_errors_quote_the_rule(make, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        make()


def test_forgetting_reaches_the_moments_of_adaptive_updates_and_nothing_else() -> None:
    net = nn.Linear(3, 2)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    stepped(sgd)
    step = repairing(net, torch.randn(8, 3), sgd)
    remedies.SwitchToAdam().apply(FINDING, step)
    step.adam.apply()
    step.reset_optimizer_state(net.weight, 1)
    momentum = sgd.state[net.weight]["momentum_buffer"]
    for moment in (momentum, *step.adam.moments(net.weight)):
        assert moment[0].all()
        assert not moment[1].any()
    step.reset_optimizer_state(net.weight)
    assert not momentum.any()
    assert sgd.state[net.bias]["momentum_buffer"].all()


def test_a_fused_adam_decays_what_it_is_told_to() -> None:
    net = nn.Linear(4, 2, bias=False)
    adam = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
    remedies.IncreaseWeightDecay(times=100.0).apply(FINDING, repairing(net, torch.randn(8, 4), adam))
    before = net.weight.detach().clone()
    net.weight.grad = torch.zeros_like(net.weight)
    adam.step()  # 100 / (0.1 * 1000 steps) is a decay of 1, of which a tenth is taken in a step
    torch.testing.assert_close(net.weight.detach(), 0.9 * before)


def test_a_decay_that_forgets_within_a_hundred_steps_is_taken_away_and_an_ordinary_one_is_not() -> None:
    net = nn.Linear(4, 2)
    strong = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.5)
    assert (
        str(remedies.RemoveWeightDecay().apply(FINDING, repairing(net, torch.randn(8, 4), strong)))
        == "removed a weight decay of 0.5"
    )
    assert strong.param_groups[0]["weight_decay"] == 0.0
    usual = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    assert remedies.RemoveWeightDecay().apply(FINDING, repairing(net, torch.randn(8, 4), usual)) is None
    assert usual.param_groups[0]["weight_decay"] == 0.01


def test_a_learning_rate_is_fitted_to_the_size_of_the_updates() -> None:
    net = nn.Linear(4, 2)
    step = repairing(net, torch.randn(8, 4), torch.optim.SGD(net.parameters(), lr=0.5))
    assert remedies.ScaleLRToUpdateRatio().apply(FINDING, step) is None  # nothing was sampled
    ratios = {"param_norm": np.array([2.0]), "update_ratio": np.array([4.0])}
    step.stats = GradStats.of({"net": 1.0}, **ratios)
    assert (
        str(remedies.ScaleLRToUpdateRatio().apply(FINDING, step))
        == "scaled the learning rate by 0.0025 for the rest of the run"
    )
    assert step.lr_factor.effective_lr() == pytest.approx(0.5 * 0.0025)
