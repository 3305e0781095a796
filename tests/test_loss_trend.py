"""The loss trend of a run, and when activation statistics count as a symptom."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_remedies import repairing
from torch import nn

from lightning_gradguard import GradStats, remedies
from lightning_gradguard.collect.activation_stats import ActivationRecord, ActivationStats
from lightning_gradguard.collect.loss_trend import INITIAL, LossTrend, follow, judge, renewed
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


def trend_of(*blocks: float, lr: float = math.nan, samples: dict[int, float] | None = None) -> LossTrend:
    """The trend after blocks of four equal losses; `samples`: step -> spread of all layers."""
    state = INITIAL
    for step, loss in enumerate(loss for block in blocks for loss in [block] * 4):
        sample = None
        if samples and step in samples:
            sample = ActivationStats(layers=("a", "b"), spread=np.full(2, samples[step]))
        state = follow(state, loss, lr, total_steps=200, activation_stats=sample)
    return judge(state)


@pytest.mark.parametrize(("total", "size"), [(1000, 20), (None, 100), (100, 4), (249, 4), (250, 5), (10**6, 500)])
def test_a_block_is_two_percent_of_the_planned_steps(total: int | None, size: int) -> None:
    state = INITIAL
    for _ in range(size - 1):
        state = follow(state, 1.0, total_steps=total)
    assert judge(state).blocks == 0
    assert judge(follow(state, math.nan, total_steps=total)).blocks == 0
    assert judge(follow(state, None, total_steps=total)).blocks == 0
    assert judge(follow(state, 1.0, total_steps=total)) == LossTrend(1, start=1.0, best=1.0, last=1.0)


def test_a_flat_loss_is_stuck_after_five_blocks() -> None:
    assert trend_of(*[1.0] * 4) == LossTrend(4, start=1.0, best=1.0, last=1.0)
    assert trend_of(*[1.0] * 5) == LossTrend(5, is_stuck=True, never_decreased=True, start=1.0, best=1.0, last=1.0)


@pytest.mark.parametrize(
    ("blocks", "never_decreased", "is_stuck"),
    [
        ((1.0, 1.0, 1.0, 0.98, 0.98), True, True),  # 2 % may be chance
        ((1.0, 1.0, 1.0, 0.96, 0.96), False, False),  # 4 %, and it still decreases
        ((1.0, 1.0, 1.0, 0.96, 0.96, 0.96, 0.96), False, True),
        ((1.0, 0.96, 1.0, 1.0, 1.0), True, True),  # two blocks together were only 2 % lower
        ((1.0, 0.9, 1.0, 1.0, 1.0), False, True),  # once is enough
        ((2.0, 1.0, 1.0, 1.4, 1.4, 1.4, 1.4), False, True),  # 30 % below the first steps may be convergence
        ((2.0, 1.0, 1.0, 1.39, 1.39, 1.39, 1.39), False, False),
        ((-1.0, -1.0, -1.0, -1.0, -1.0), False, True),  # a loss below zero has decreased
    ],
)
def test_what_counts_as_a_decrease(blocks: tuple[float, ...], never_decreased: bool, is_stuck: bool) -> None:
    trend = trend_of(*blocks)
    assert (trend.never_decreased, trend.is_stuck) == (never_decreased, is_stuck)


@pytest.mark.parametrize(
    ("blocks", "is_stuck"),
    [
        ((1.0, *[2e-4] * 5), True),
        ((1.0, *[1e-4] * 5), False),  # so small that it is finished
        ((1.0, 3.0, *[1e-4] * 5), False),
        ((1.0, 3.1, *[1e-4] * 5), True),  # it exploded before
    ],
)
def test_a_converged_run_is_stuck_if_all_samples_look_the_same(blocks: tuple[float, ...], is_stuck: bool) -> None:
    assert trend_of(*blocks, samples={0: 1e-6}).is_stuck == is_stuck
    assert not trend_of(*blocks, samples={0: 0.005}).is_stuck
    assert not trend_of(*blocks).is_stuck


def test_a_sample_counts_on_its_own_step() -> None:
    blocks = (2.0, *[0.5] * 6)
    assert trend_of(*blocks, samples={25: 1e-6}).is_stuck
    assert not trend_of(*blocks, samples={20: 1e-6, 26: 1.0}).is_stuck


@pytest.mark.parametrize(("last", "above"), [(1.5, False), (1.51, True)])
def test_a_loss_half_as_high_again_as_the_first_is_regressing(last: float, above: bool) -> None:
    trend = trend_of(1.0, last)
    assert (trend.above_start, trend.is_regressing) == (above, above)
    state = INITIAL
    for loss in (1.0, 1.0, 1.0, 1.0, last - 0.5, last + 0.5, last - 0.5, last + 0.5):
        state = follow(state, loss, total_steps=200)
    assert not judge(state).above_start  # within the scatter between batches


@pytest.mark.parametrize(
    ("blocks", "regressing"),
    [
        ((2.0, 1.0, 1.0, *[1.51] * 3), False),
        ((2.0, 1.0, 1.0, *[1.51] * 4), True),  # four blocks with more than half of the progress lost
        ((2.0, 1.0, 1.0, *[1.5] * 9), False),
        ((2.0, 1.0, 1.0, 1.51, 1.51, 1.0, 1.51, 1.51), True),  # of the last six
        ((2.0, 1.0, 1.0, 1.51, 1.0, 1.0, 1.0, 1.51, 1.51, 1.51), False),
        ((2.0, 1.0, *[1.26 + 0.025 * i for i in range(16)]), False),  # a slow drift
        ((1.0, -1.0, -1.0, *[0.5] * 9), False),  # below zero, all of the progress must be lost
        ((1.0, -1.0, -1.0, *[1.01] * 4), True),
    ],
)
def test_progress_that_is_lost_is_regressing(blocks: tuple[float, ...], regressing: bool) -> None:
    assert trend_of(*blocks).is_regressing == regressing


@pytest.mark.parametrize(("rate", "blocks"), [(1.19, 7), (1.21, 1)])
def test_blocks_of_the_warmup_are_discarded(rate: float, blocks: int) -> None:
    state = INITIAL
    for step in range(28):
        state = follow(state, 1.0, lr=rate ** (step // 4), total_steps=200)
    assert judge(state).blocks == blocks


@pytest.mark.parametrize("improved", [False, True])
def test_after_a_repair_only_the_start_of_the_loss_is_kept(improved: bool) -> None:
    state = INITIAL
    for _ in range(40):
        state = follow(state, 3.0, total_steps=200)
    state = renewed(state, improved)
    assert judge(state) == LossTrend()
    for _ in range(20):
        state = follow(state, 3.0, total_steps=1000)
    trend = judge(state)
    assert (trend.blocks, trend.start, trend.never_decreased) == (5, 3.0, not improved)


def test_a_trend_survives_a_checkpoint() -> None:
    trend = LossTrend(7, True, False, start=2.0)
    assert judge({**INITIAL, "trend": list(trend)}) == trend
