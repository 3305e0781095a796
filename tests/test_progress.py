"""What the loss of a run says, and when a sight inside counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_remedies import repairing
from torch import nn

from lightning_gradguard import GradStats, remedies
from lightning_gradguard.collect.activation_stats import ActivationRecord, ActivationStats
from lightning_gradguard.collect.loss_trend import NOTHING, SOON, LossTrend, follow, judge
from lightning_gradguard.detectors import DeadUnits, LossIncrease, LossSpike, State, diagnose
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.findings import Finding


def dead_layer(losses: list[float], spread: float) -> tuple:
    """What `DeadUnits` says at the end of a run with an idle layer; `spread` reaches the last layer."""
    idle = ActivationRecord("a", "relu", 1.0, np.array([True] * 40), 32)
    look = ActivationStats(
        layers=("a", "b"), spread=np.array([spread, 0.5]), last_input_spread=spread, activations=(idle,)
    )
    detector, found = DeadUnits(looks=1), ()
    state, progress = detector.init(), NOTHING
    for step, loss in enumerate(losses):
        progress = follow(progress, loss, total_steps=200)
        seen = look if step == 0 else None
        state, found = detector.update(
            state, GradStats.of({"a": 1.0}, step=step, loss=loss, loss_trend=judge(progress), activation_stats=seen)
        )
    return found


def test_a_run_that_has_learnt_is_suspected_only_while_nothing_gets_through() -> None:
    learnt = [2.3] * 4 + [0.5] * 96
    assert not dead_layer(learnt, spread=0.3)
    assert dead_layer(learnt, spread=0.0)
    assert dead_layer([2.3] * 100, spread=0.3)


def test_one_spike_does_not_excuse_the_next() -> None:
    detector = LossSpike(warmup=5)
    state = detector.init()
    for step, loss in enumerate([2.0, 1.5, 1.2, 1.1, 1.0, 1.0, 1.0, 30.0]):
        state, found = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=loss))
        assert not found
    assert detector.update(state, GradStats.of({"a": 1.0}, step=8, loss=1000.0))[1]


@pytest.mark.parametrize(("back", "found"), [(1.2, False), (1.9, True)])
def test_a_relapse_is_most_of_the_way_back_for_long(back: float, found: bool) -> None:
    detector = LossIncrease()
    state, said = detector.init(), False
    for step in range(200):
        loss = 2.0 if step < 20 else 0.1 if step < 150 else back
        state, now = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=loss))
        said = said or bool(now)
        assert state["worse"] == (150 <= step < 169)
    assert said == found


def test_a_sick_cell_is_drawn_anew_alone_and_with_its_biases() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.cell(x)[0][:, -1])

    net = Net()
    for p in net.cell.parameters():
        nn.init.constant_(p, 4.0)
    head = net.head.weight.detach().clone()
    step = repairing(net, torch.randn(8, 6, 3), torch.optim.Adam(net.parameters()))
    said = remedies.Reinitialize().apply(Finding("exploding_through_time", 3, ("cell",)), step)
    assert said == "1 recurrent layers drawn anew"
    assert torch.equal(net.head.weight, head)
    biases = (net.cell.bias_ih_l0 + net.cell.bias_hh_l0).detach()
    assert not biases[:4].any()
    assert not biases[8:].any()
    assert biases[4:8].min() > 1.0


def test_what_waits_is_asked_only_when_there_is_something_to_see() -> None:
    class Asked(ActivationDetector):
        kind, name = "asked", "asked"

        def look(self, seen: State, probe: ActivationStats) -> State:
            return {"looks": seen.get("looks", 0) + 1}

        def verdict(self, seen: State, stats: GradStats) -> Finding | None:
            return Finding(self.kind, stats.step, (), seen["looks"], 1.0)

    detector, states, found = Asked(), {"asked": Asked().init()}, []
    stuck = LossTrend(blocks=SOON, flat=True)
    for step, fields in enumerate(({}, {"activation_stats": ActivationStats()}, {}, {"loss_trend": stuck}, {})):
        states, now = diagnose([detector], states, GradStats.of({"a": 1.0}, step=step, **fields))
        found += [finding.step for finding in now]
    assert states["asked"]["seen"] == {"looks": 1}
    assert found == [3]
