"""The loss trend of a run, and when activation statistics count as a symptom."""

from __future__ import annotations

import numpy as np
import torch
from test_remedies import repairing
from torch import nn

from lightning_gradguard import GradStats, remedies
from lightning_gradguard.collect.activation_stats import ActivationRecord, ActivationStats
from lightning_gradguard.collect.loss_trend import INITIAL, LossTrend, follow, judge
from lightning_gradguard.detectors import DeadUnits, State, diagnose
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.findings import Finding
from lightning_gradguard.modules.activations import Traits


def dead_layer(losses: list[float], spread: float) -> tuple:
    """Findings of `DeadUnits` at the end of a run with inactive units; `spread` is that of the last layer's input."""
    dead = ActivationRecord("a", "relu", 1.0, np.array([True] * 40), 32, traits=Traits(one_sided=True))
    first = ActivationStats(
        layers=("a", "b"), spread=np.array([spread, 0.5]), last_input_spread=spread, activations=(dead,)
    )
    detector, found = DeadUnits(patience=1), ()
    state, trend = detector.init(), INITIAL
    for step, loss in enumerate(losses):
        sample = first if step == 0 else None
        trend = follow(trend, loss, total_steps=200, activation_stats=sample)
        state, found = detector.update(
            state, GradStats.of({"a": 1.0}, step=step, loss=loss, loss_trend=judge(trend), activation_stats=sample)
        )
    return found


def test_dead_units_of_a_converged_run_are_reported_only_if_all_samples_look_the_same() -> None:
    learned = [2.3] * 4 + [0.5] * 96
    assert not dead_layer(learned, spread=0.3)
    assert dead_layer(learned, spread=0.0)
    assert dead_layer([2.3] * 100, spread=0.3)


def test_an_affected_cell_is_reinitialized_alone_and_with_its_biases() -> None:
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
    assert str(said) == "re-initialized 1 recurrent layers"
    assert torch.equal(net.head.weight, head)
    biases = (net.cell.bias_ih_l0 + net.cell.bias_hh_l0).detach()
    assert not biases[:4].any()
    assert not biases[8:].any()
    assert biases[4:8].min() > 1.0


def test_a_detector_of_extra_stats_is_called_only_when_there_are_some() -> None:
    class Counting(ActivationDetector):
        kind, name = "counting", "counting"

        def observe(self, state: State, sample: ActivationStats) -> State:
            return {"samples": state.get("samples", 0) + 1}

        def judge(self, state: State, stats: GradStats) -> Finding | None:
            return Finding(self.kind, stats.step, (), state["samples"], 1.0)

    detector, states, found = Counting(), {"counting": Counting().init()}, []
    stuck = LossTrend(is_stuck=True)
    for step, fields in enumerate(({}, {"activation_stats": ActivationStats()}, {}, {"loss_trend": stuck}, {})):
        states, now = diagnose([detector], states, GradStats.of({"a": 1.0}, step=step, **fields))
        found += [finding.step for finding in now]
    assert states["counting"] == {"samples": 1}
    assert found == [3]
