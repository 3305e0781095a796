"""The outcome of a run: outcomes are about the run, and ruined weights do not leave it."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from runs import Faults, Net, files, fit, loader, same_state
from test_decisions_engine import Counter, engine
from torch import Tensor, nn

from lightning_gradguard import GradGuard
from lightning_gradguard.collect.loss_level import INITIAL, SURELY, follow_level, level_since, limit_above, standing_of
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors import DamagedWeights
from lightning_gradguard.policy import Policy
from lightning_gradguard.remedies import ReduceLR, Rollback
from lightning_gradguard.replay import replay
from lightning_gradguard.step.snapshots import Snapshots


class State(pl.Callback):
    """Changes the module before the batch of one step."""

    def __init__(self, step: int, change: Callable[[Any], Any]) -> None:
        self.step, self.change = step, change

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                self.change(pl_module)


class Gradients(pl.Callback):
    """Multiplies the gradients of one step."""

    def __init__(self, step: int, scale: float) -> None:
        self.step, self.scale = step, scale

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == self.step:
            for p in pl_module.parameters():
                p.grad.mul_(self.scale)


def plain() -> Net:
    torch.manual_seed(0)
    return Net(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))


def loss_of(net: nn.Module) -> float:
    x, y = loader(batches=20, seed=0).dataset[:]
    with torch.no_grad():
        return float(nn.functional.cross_entropy(net(x), y))


def follow(losses: list[float], total: int = 200) -> dict[str, Any]:
    state = INITIAL
    for step, loss in enumerate(losses):
        state = follow_level(state, step, loss, total)
    return state


# ---------------------------------------------------------------- where the loss stands


def noisy(level: float, count: int, seed: int = 0) -> list[float]:
    """As at a batch size of one: losses scatter as much as they are high."""
    return (level * np.random.default_rng(seed).lognormal(0.0, 1.5, count)).tolist()


@pytest.mark.parametrize("total", [200, 2000])
def test_a_run_at_batch_size_one_is_not_degraded_by_chance(total: int) -> None:
    runs = [[1e-3, *noisy(1.0, total, seed)] for seed in range(40)]
    assert not any(standing_of(follow(losses, total), total).is_degraded for losses in runs)
    worse = [losses + noisy(8.0, total // 8, seed=7) for losses in runs]
    assert all(standing_of(follow(losses, total), total).is_degraded for losses in worse)


def test_a_loss_above_its_best_by_a_tenth_of_all_progress_is_degraded() -> None:
    learned = [2.0] * 20 + [0.5] * 100
    assert standing_of(follow(learned + [0.6] * 20), 140).is_degraded is False
    state = follow(learned + [0.7] * 20)
    assert standing_of(state, 140) == (0.7, 0.5, 0, True)
    assert limit_above(state, 0.5, share=0.2) == pytest.approx(0.8)


def test_a_run_that_lost_a_fifth_of_its_steps_is_degraded() -> None:
    state = follow([1.0] * 100)
    assert [standing_of({**state, "lost": lost}, 100).is_degraded for lost in (20, 21)] == [False, True]


def test_a_surrogate_that_returns_to_zero_is_not_degraded() -> None:
    state = follow([0.0] * 20 + [-0.3] * 60 + [-0.02] * 40)
    assert not standing_of(state, 120).is_degraded
    assert standing_of(follow([-1.0] * 20 + [-3.0] * 60 + [0.5] * 40), 120).is_degraded


@pytest.mark.parametrize(("total", "size"), [(None, 200), (10, 20), (209, 20), (500, 50), (1999, 199), (3000, 200)])
def test_a_level_is_that_of_a_tenth_of_the_steps(total: int | None, size: int) -> None:
    assert follow_level(INITIAL, 0, 1.0, total)["size"] == size


def test_levels_are_taken_every_five_steps_once_there_are_enough_losses() -> None:
    state, counts = {**INITIAL, "size": 20}, []
    for step in range(33):
        state = follow_level(state, step, 1.0)
        counts.append(len(state["errors"]))
    assert [step for step in range(1, 33) if counts[step] > counts[step - 1]] == [19, 20, 25, 30]


def test_the_chance_of_a_level_is_that_of_a_normal_median() -> None:
    state = follow([0.0, 2.0] * 10)  # a median of 1, and deviations of 1
    assert state["errors"] == pytest.approx([1.2533 * 1.4826 / math.sqrt(20)])
    assert limit_above(state, 1.0, 0.1) == pytest.approx(1.0 + SURELY * math.sqrt(2) * state["errors"][0])


@pytest.mark.parametrize(("loss", "limit"), [(0.0, 0.1), (0.5, 0.6), (-0.5, 1.1)])
def test_a_loss_below_zero_may_return_to_the_first(loss: float, limit: float) -> None:
    state = {**INITIAL, "errors": [0.0], "first": 1.0, "best": 0.0}
    assert limit_above(state, loss, 0.1) == pytest.approx(limit)


def test_what_is_not_known_is_not_above() -> None:
    assert math.isnan(limit_above(INITIAL, 1.0, 0.1))
    assert math.isnan(level_since(follow([1.0] * 4)))
    assert not standing_of(INITIAL, 0).is_degraded


# ---------------------------------------------------------------- incidents


def run_with_losses(losses: list[float], at: int) -> Any:
    """An engine that has followed these losses, with a finding at one step."""
    run = engine(Counter(at=(at,)), policy=Policy({"counted": [ReduceLR()]}, patience=2))
    closed: list[Any] = []
    for loss in losses:
        run.source.measured = {"loss": loss, "total_steps": 200}
        run.step()
        closed += run.changed
    return run, closed


def test_an_incident_is_resolved_when_the_loss_is_back_not_when_the_symptom_ends() -> None:
    before = [2.0] * 20 + [0.5] * 40
    run, changed = run_with_losses([*before, *[1.5] * 60], at=60)
    assert [incident.outcome for incident in changed] == ["open"]
    (ended,) = run.close_incidents()
    assert (ended.outcome, ended.loss_before, ended.loss_after) == ("degraded", 0.5, 1.5)
    assert "degraded (loss 1.5, was 0.5)" in str(ended)
    _, changed = run_with_losses([*before, *[1.5] * 20, *[0.5] * 40], at=60)
    assert [incident.outcome for incident in changed] == ["open", "resolved"]
    assert changed[-1].loss_after == 0.5


def test_a_symptom_that_lasts_until_the_end_is_open() -> None:
    run, _ = run_with_losses([1.0] * 61, at=60)
    assert [incident.outcome for incident in run.close_incidents()] == ["open"]
    assert list(run.incidents.incidents) == ["counted"]  # still told


def test_findings_that_one_action_answers_are_one_incident() -> None:
    guard = GradGuard()
    fit(plain(), Faults({30: 1e5}), guard)
    (incident,) = guard.incidents
    assert (incident.kind, incident.actions) == ("loss_spike", ("SkipStep",))
    assert [symptom.kind for symptom in incident.symptoms] == ["exploding"]
    assert "also exploding" in str(incident)


def test_a_run_without_incidents_can_be_degraded() -> None:
    guard = GradGuard("monitor")
    net = plain()
    fit(net, guard, max_epochs=3, data=loader(batches=40))
    assert guard.report().outcome == "healthy", guard.report()

    class Turned(pl.Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            for p in pl_module.parameters():
                p.grad.mul_(-1.0 if trainer.global_step > 80 else 1.0)

    guard = GradGuard("monitor", detectors=[])
    fit(plain(), Turned(), guard, max_epochs=3, data=loader(batches=40))
    report = guard.report()
    assert (report.outcome, report.incidents) == ("degraded", ())
    assert "at its best" in str(report)


# ---------------------------------------------------------------- weights or data


def test_weights_with_nan_are_rolled_back_at_once() -> None:
    guard, net = GradGuard(snapshot_every=10), plain()
    fit(net, State(25, lambda m: m.net[0].weight[3].fill_(math.nan)), guard)
    (incident,) = guard.incidents
    assert (incident.kind, incident.layers, incident.steps) == ("nonfinite_state", ("net.0",), "25")
    assert (incident.actions, incident.outcome) == (("Rollback",), "resolved")
    assert all(p.isfinite().all() for p in net.parameters())


def test_momentum_with_nan_is_found_at_the_next_snapshot() -> None:
    class SignOfMomentum(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = closure() if closure is not None else None
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    p.sub_(1e-3 * momentum.lerp_(p.grad, 0.1).sign())
            return loss

    def spoil(module: Net) -> None:
        module.trainer.optimizers[0].state[module.net[0].weight]["momentum"].fill_(math.nan)

    net = plain()
    net.make_optimizer = lambda params: SignOfMomentum(params, lr=1e-3)
    guard = GradGuard(snapshot_every=10)
    fit(net, State(23, spoil), guard)
    (incident,) = [incident for incident in guard.incidents if incident.kind == "nonfinite_state"]
    assert (incident.steps, incident.actions) == ("30", ("Rollback",))


@pytest.mark.parametrize(("first", "count"), [(0, 12), (0, 25), (20, 12), (20, 25)])
def test_bad_batches_cost_no_learning_rate_and_no_rollback(first: int, count: int) -> None:
    guard, factors = GradGuard(), []

    class Factor(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            factors.append(guard.last_report.outcome.lr_factor if guard.last_report else 1.0)

    net, twin = plain(), plain()
    bad = dict.fromkeys(range(first, first + count), math.nan)
    fit(net, Faults(bad), guard, Factor(), max_epochs=2)
    assert set(factors) == {1.0}
    (incident,) = guard.incidents
    assert (incident.count, incident.outcome) == (count, "resolved")

    class Left(pl.Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_step in bad:
                for p in pl_module.parameters():
                    p.grad = None

    fit(twin, Left(), max_epochs=2)
    assert same_state(net, twin)


@pytest.mark.parametrize("step", [0, 1, 5, 10])
def test_a_huge_gradient_of_the_first_steps_does_no_harm(step: int) -> None:
    guard, net = GradGuard(), plain()
    fit(net, Gradients(step, 1e30), guard)
    assert loss_of(net.net) < 0.5
    assert [incident.kind for incident in guard.incidents] == ["exploding"]


def test_a_first_gradient_that_was_too_large_is_taken_back() -> None:
    guard, net = GradGuard(), plain()
    fit(net, Gradients(0, 1e5), guard)
    (incident,) = guard.incidents
    assert (incident.kind, incident.steps, incident.actions) == ("early_outlier", "9", ("Rollback",))
    assert loss_of(net.net) < 0.5


def test_damaged_weights_are_told_from_a_bad_batch_by_the_last_healthy_one() -> None:
    guard, net = GradGuard(), plain()
    fit(net, State(30, lambda m: m.net[2].weight.mul_(1e4)), guard, max_epochs=2)
    kinds = {incident.kind: incident.actions for incident in guard.incidents}
    assert kinds["damaged_weights"] == ("Rollback",)
    assert loss_of(net.net) < 0.5
    reports = []

    class Reports(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            reports.append(guard.last_report)

    guard = GradGuard()
    fit(plain(), Faults({30: 1e5}), guard, Reports())
    before, now = reports[30].stats.recheck
    assert now <= before
    assert reports[30].stats.weights_known_good


@pytest.mark.parametrize("policy", ["monitor", "protect"])
def test_weights_that_wrong_labels_have_damaged_are_rolled_back(policy: str) -> None:
    class WrongLabels(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if 50 <= batch_idx < 70:
                batch[1].copy_((batch[1] + 1) % 3)

    guard, net = GradGuard(policy), plain()
    fit(net, WrongLabels(), guard, data=loader(batches=90))
    actions = {(incident.kind, incident.actions) for incident in guard.incidents}
    assert (("damaged_weights", ("Rollback",)) in actions) is (policy == "protect")
    assert (loss_of(net.net) < 0.5) is (policy == "protect")


class Rare(Net):
    """A weight that one batch does not use."""

    def __init__(self) -> None:
        super().__init__(plain().net)
        self.rare = nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + (batch_idx != 60) * self.rare.square().sum()


def test_damage_that_the_last_healthy_batch_does_not_show_is_rolled_back() -> None:
    guard, net = GradGuard(), Rare()
    fit(net, State(60, lambda m: m.rare.fill_(1e6)), guard, data=loader(batches=120))
    assert abs(float(net.rare.detach())) <= 1
    assert [incident.outcome for incident in guard.incidents] == ["resolved"]


def test_a_state_that_is_not_finite_is_rolled_back_though_no_step_was_taken() -> None:
    def break_state(module: Any) -> None:
        next(iter(module.optimizers().state.values()))["exp_avg_sq"].fill_(math.inf)

    guard, net = GradGuard(snapshot_every=1), plain()
    fit(net, Faults({20: math.nan}), State(21, break_state), guard)
    assert [incident.outcome for incident in guard.incidents] == ["resolved", "resolved"]
    assert [incident.count for incident in guard.incidents if incident.kind == "nonfinite_state"] == [1]


def test_weights_are_not_damaged_where_a_loss_of_zero_becomes_a_rounding_error() -> None:
    detector = DamagedWeights()
    state = detector.init()
    for step in range(30):
        state, _ = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=2.0 * (step == 0)))
    stats = GradStats.of({"a": 1.0}, step=30, loss=5e-7, recheck=(0.0, 4e-7))
    assert not detector.update(state, stats)[1]
    assert detector.update(state, replace(stats, recheck=(0.0, 0.1)))[1]


@pytest.mark.parametrize("lr", [math.nan, math.inf, -1.0])
def test_a_step_with_an_impossible_learning_rate_is_skipped(lr: float) -> None:
    net, guard = plain(), GradGuard()

    class Rate(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            trainer.optimizers[0].param_groups[0]["lr"] = lr if trainer.global_step == 20 else 1e-2

    fit(net, Rate(), guard)
    (incident,) = guard.incidents
    assert (incident.kind, incident.actions, incident.outcome) == ("invalid_lr", ("SkipStep",), "resolved")


# ---------------------------------------------------------------- a second look leaves no trace


class Counting(Net):
    """A module whose step counts, draws random numbers of three kinds, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3)))
        self.calls, self.seen, self.drawn, self.by_index = 0, [], torch.zeros(2), {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.calls += 1
        self.seen.append(batch_idx)
        self.by_index[batch_idx] = self.calls
        self.drawn += torch.tensor([random.random(), float(np.random.random())])
        return super().training_step(batch, batch_idx)


def test_measuring_a_batch_again_leaves_no_trace() -> None:
    def trained(*callbacks: Any) -> Counting:
        pl.seed_everything(1, verbose=False)
        module = Counting()
        fit(module, *callbacks)
        return module

    guard = GradGuard(detectors=[Looking()])
    alone, watched = trained(), trained(guard)
    assert guard.last_report is not None
    assert guard.last_report.stats.recheck is not None
    assert same_state(alone, watched)
    assert (watched.calls, watched.seen, watched.by_index) == (alone.calls, alone.seen, alone.by_index)
    assert torch.equal(watched.drawn, alone.drawn)
    metrics = watched.trainer.callback_metrics
    assert {name: y for name, y in metrics.items() if not name.startswith("gradguard/")} == (
        alone.trainer.callback_metrics
    )


class Looking(Counter):
    """Asks at every step for the last healthy batch to be measured again."""

    asks_for_recheck = True

    def wants_recheck(self, state: Any, stats: Any) -> bool:
        return bool(stats.step > 0)


def test_a_loss_that_is_no_lower_in_the_snapshot_is_no_reason_to_go_back() -> None:
    class Raised(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * 1.05**self.global_step

    torch.manual_seed(0)
    raised = Raised(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
    guard = GradGuard()
    fit(raised, guard, max_epochs=4)
    assert {incident.kind for incident in guard.incidents} & {"diverging", "loss_increase"}
    assert not any(incident.actions for incident in guard.incidents)


@pytest.mark.parametrize("fault", ["weights", "data"])
def test_damage_that_every_other_batch_shows_is_rolled_back_and_bad_data_are_skipped(fault: str) -> None:
    class Feature(Net):
        """One of its inputs is 1 in every other batch, otherwise 0."""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            (x, y), odd = batch, batch_idx % 2
            if batch_idx == 101 and fault == "weights" and self.current_epoch == 1:
                with torch.no_grad():
                    self.net[0].weight[:, 7] = 300.0
            bad = batch_idx > 100 and fault == "data" and self.current_epoch == 1
            x = torch.cat([x[:, :7], torch.full((len(x), 1), float(odd))], 1) * (1e4 if odd and bad else 1.0)
            return super().training_step((x, y), batch_idx)

    torch.manual_seed(0)
    guard = GradGuard(record=False)
    fit(Feature(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))), guard, data=loader(160), max_epochs=2)
    actions = {action for incident in guard.incidents for action in incident.actions}
    assert actions == ({"SkipStep", "Rollback"} if fault == "weights" else {"SkipStep"})
    (standing,) = guard.report().standings
    assert standing.lost <= 50 if fault == "weights" else standing.lost >= 25


@pytest.mark.parametrize("ruined", [True, False])
def test_what_the_very_last_step_has_ruined_is_put_right_and_nothing_else(ruined: bool) -> None:
    class Ruined(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, *args: Any) -> None:
            super().optimizer_step(epoch, batch_idx, *args)
            if ruined and (epoch, batch_idx) == (3, 39):
                with torch.no_grad():
                    self.net[0].weight.mul_(-1.0)

    torch.manual_seed(0)
    net = Ruined(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
    alone = copy.deepcopy(net)
    guard = GradGuard(snapshot_every=10)
    fit(net, guard, max_epochs=4)
    fit(alone, max_epochs=4)
    assert guard.last_report is not None
    assert guard.last_report.stats.step == 159
    assert [incident.kind for incident in guard.incidents] == ["loss_increase"] * ruined
    assert guard.report().outcome == ("recovered" if ruined else "healthy")
    assert same_state(net, alone) != ruined


def test_comparisons_become_rarer_while_they_find_nothing() -> None:
    class Doubtful(Counter):
        only_about_loss = True

    run = engine(Doubtful(at=tuple(range(100))), policy=Policy({"counted": [Rollback(), Rollback(), ReduceLR()]}))
    run.source.losses = 1.0, 1.0
    looked = []
    for step in range(100):
        before = run.source.compared
        run.step()
        looked += [step] * (run.source.compared - before)
    assert looked == [0, 4, 12, 28, 60]
    assert run.ladders["counted"].rung == 0
    run.source.losses = 2.0, 1.0
    assert run._next_look > 100


def test_weights_come_back_bit_for_bit_after_a_comparison() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(net.parameters())
    snapshots = Snapshots(net, optimizer)
    snapshot = snapshots.take(0)
    with torch.no_grad():
        for t in (*net.parameters(), net[1].running_mean):
            t.mul_(3.0).add_(0.1)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with snapshots.installed(snapshot):
        assert torch.equal(net[0].weight, snapshot.params[0])
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


@pytest.mark.parametrize("fault", [Faults({60: math.nan}), State(60, lambda m: m.net[0].weight.mul_(1e30))])
def test_nothing_is_resolved_in_a_run_that_ends_in_nan(fault: pl.Callback) -> None:
    guard = GradGuard("monitor")
    fit(plain(), fault, guard, data=loader(batches=120))
    assert guard.incidents
    assert "resolved" not in {incident.outcome for incident in guard.incidents}
    assert guard.report().outcome == "degraded"


def test_a_bad_batch_near_the_end_says_nothing_about_what_came_before() -> None:
    guard = GradGuard()
    fit(plain(), Faults({60: math.nan, 117: math.nan}), guard, data=loader(batches=120))
    assert next(incident.outcome for incident in guard.incidents if incident.kind == "nonfinite") == "resolved"
    assert all(math.isfinite(incident.loss_after) for incident in guard.incidents if incident.outcome == "resolved")


# ---------------------------------------------------------------- what leaves the run


def test_the_best_snapshot_is_never_evicted_by_a_worse_one() -> None:
    net = nn.Linear(2, 2)
    snapshots = Snapshots(net, torch.optim.SGD(net.parameters(), lr=0.1), keep=2)
    for step, loss in enumerate([math.nan, 2.0, 0.5, 0.7, 0.9, 0.6]):
        snapshots.take(step, loss)
    assert [snapshot.step for snapshot in snapshots.ring] == [2, 5]
    snapshots.take(6, 0.4)
    assert [snapshot.step for snapshot in snapshots.ring] == [2, 6]  # the new one is not known to be better before
    snapshots.take(7, 0.9)
    assert [snapshot.step for snapshot in snapshots.ring] == [6, 7]
    assert snapshots.restore_best() is snapshots.ring[0]


def test_a_run_does_not_end_on_weights_that_are_not_finite() -> None:
    net, guard = plain(), GradGuard(snapshot_every=10)

    class Late(pl.Callback):
        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            if trainer.global_step == 39:  # within the last step
                with torch.no_grad():
                    pl_module.net[0].weight[0].fill_(math.nan)

    fit(net, Late(), guard)
    assert loss_of(net.net) < 0.5
    assert [i.kind for i in guard.incidents] == ["nonfinite_state"]


def test_a_run_does_not_end_within_an_explosion(tmp_path: Path) -> None:
    net, guard = plain(), GradGuard(snapshot_every=10)
    spoiled = State(90, lambda m: [p.mul_(0.0) for p in m.parameters()])
    fit(net, spoiled, guard, max_epochs=3, max_steps=105, logger=files(tmp_path))
    assert loss_of(net.net) < 0.5
    assert [incident.actions for incident in guard.incidents] == [("Rollback",)]
    assert list(map(repr, replay(tmp_path).incidents)) == list(map(repr, guard.report().incidents))


@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_stay_finite(first: bool) -> None:
    average = WeightAveraging(avg_fn=lambda a, b, n: a * 0.9 + b * 0.1)
    net, guard = plain(), GradGuard(snapshot_every=10)

    def spoil(module: Net) -> None:
        module.trainer.optimizers[0].state[module.net[0].weight]["exp_avg"].fill_(math.nan)

    fit(net, State(25, spoil), *([average, guard] if first else [guard, average]))
    assert all(p.isfinite().all() for p in net.parameters())
    (incident,) = guard.incidents
    assert (incident.kind, incident.actions) == ("nonfinite_state", ("Rollback",))


def test_no_checkpoint_holds_nan(tmp_path: Path) -> None:
    net, guard = plain(), GradGuard(snapshot_every=10)

    def spoil(module: Net) -> None:
        module.trainer.optimizers[0].state[module.net[0].weight]["exp_avg"].fill_(math.nan)

    every = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    fit(net, State(25, spoil), guard, every, enable_checkpointing=True, logger=files(tmp_path / "log"))
    for path in (tmp_path / "saved").glob("*.ckpt"):
        saved = torch.load(path, weights_only=False)
        state = [v for entry in saved["optimizer_states"][0]["state"].values() for v in entry.values()]
        assert all(t.isfinite().all() for t in (*saved["state_dict"].values(), *state))
    assert [incident.kind for incident in guard.incidents] == ["nonfinite_state"]
    assert list(map(repr, replay(tmp_path / "log").incidents)) == list(map(repr, guard.report().incidents))


def test_no_snapshot_is_taken_while_the_loss_is_far_above_its_best() -> None:
    run = engine(Counter())
    for loss in [*[2.0] * 20, *[0.5] * 40, *[1.6] * 40]:
        run.source.measured = {"loss": loss, "total_steps": 200}
        run.step()
    sound = [sound for _, sound in run.actor.seen]
    assert all(sound[:60])
    assert not any(sound[-20:])
