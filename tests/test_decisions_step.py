"""How long the learning rate stays reduced, when a trial beats another, and when a search goes on, keeps or undoes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from lightning_gradguard.step.remedy_search import Candidate, RemedySearch
from lightning_gradguard.step.trial import TrialRun, better, is_blocked, level_of
from torch import nn

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.findings import EXHAUSTED, KEPT, STARTED, Action, Finding, TrialEvent
from lightning_gradguard.step.lr_factor import FORGIVEN_AFTER, SETTLE, LRFactor

# ---------------------------------------------------------------- the learning-rate factor


def factor(lr: float = 1.0, **settings: int) -> LRFactor:
    return LRFactor(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr), **settings)


def recover(lr_factor: LRFactor, steps: int) -> float:
    for _ in range(steps):
        lr_factor.recover()
    return lr_factor.factor


def test_a_reduction_lasts_two_hundred_steps_and_the_way_back_a_hundred_for_a_factor_of_ten() -> None:
    lr_factor = factor()
    lr_factor.reduce(0.1)
    assert recover(lr_factor, 200) == 0.1
    assert recover(lr_factor, 1) == pytest.approx(0.1 * 10**0.01, rel=1e-9)
    assert recover(lr_factor, 49) == pytest.approx(0.1 * 10**0.5, rel=1e-9)
    assert 0.99 < recover(lr_factor, 50) <= 1.0
    assert recover(lr_factor, 2) == 1.0


def test_only_a_reduction_after_the_way_back_began_doubles_the_hold() -> None:
    lr_factor = factor(hold=10, ramp=5)
    lr_factor.reduce(0.1)
    recover(lr_factor, 10)
    lr_factor.reduce(0.5)
    assert (lr_factor.hold, lr_factor.healthy) == (10, 0)
    recover(lr_factor, 11)
    lr_factor.reduce(0.1)
    assert (lr_factor.hold, lr_factor.healthy) == (20, 0)
    before = lr_factor.factor
    assert recover(lr_factor, 20) == before < recover(lr_factor, 1)


def test_a_rate_that_failed_again_is_never_reached_again() -> None:
    lr_factor = factor(hold=10, ramp=5)
    lr_factor.reduce(0.1)
    assert recover(lr_factor, 100) == 1.0
    lr_factor.reduce(0.1)
    assert recover(lr_factor, 1000) == lr_factor.base == SETTLE
    lr_factor.reduce(0.1)
    assert recover(lr_factor, 1000) == lr_factor.base == pytest.approx(SETTLE**2)


def test_a_reduction_long_after_the_one_before_is_not_held_against_the_rate() -> None:
    lr_factor = factor(hold=10, ramp=5)
    lr_factor.reduce(0.1)
    recover(lr_factor, 100)
    for _ in range(FORGIVEN_AFTER * 10 + 1):
        lr_factor.optimizer.step()
    lr_factor.reduce(0.1)
    assert (lr_factor.hold, recover(lr_factor, 1000)) == (10, 1.0)


def test_a_reduction_ends_at_its_floor() -> None:
    lr_factor = factor()
    assert [lr_factor.reduce(0.1, floor=0.05) for _ in range(2)] == [0.1, 0.05]
    assert factor().reduce(0.5) == 0.5


def test_a_permanent_factor_is_what_reductions_come_back_to() -> None:
    lr_factor = factor(hold=1, ramp=1)
    assert lr_factor.set_permanent(2.0) == 2.0
    assert recover(lr_factor, 9) == 2.0
    assert lr_factor.healthy == 0  # nothing to recover from
    lr_factor.reduce(0.1)
    assert recover(lr_factor, 9) == 2.0
    assert not lr_factor.neutral


@pytest.mark.parametrize(("ceiling", "expected"), [(0.5, 0.5), (1.0, 1.0), (2.0, 1.0)])
def test_a_ceiling_bounds_the_highest_learning_rate(ceiling: float, expected: float) -> None:
    lr_factor = factor()
    lr_factor.cap(ceiling)
    lr_factor.cap(ceiling + 1)  # a later ceiling that is higher changes nothing
    assert (lr_factor.current_factor(), lr_factor.effective_lr()) == (expected, expected)
    lr_factor.reduce(0.1)
    assert lr_factor.effective_lr() == pytest.approx(0.1 * expected)


def test_the_highest_of_all_groups_counts_and_groups_without_a_rate_do_not() -> None:
    lr_factor = factor()
    lr_factor.optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 4.0})
    lr_factor.optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    del lr_factor.optimizer.param_groups[2]["lr"]
    lr_factor.cap(2.0)
    assert lr_factor.user_lrs() == [1.0, 4.0]
    assert (lr_factor.current_factor(), lr_factor.effective_lr()) == (0.5, 2.0)
    for group in lr_factor.optimizer.param_groups[:2]:
        del group["lr"]
    assert math.isnan(lr_factor.effective_lr())


class Idle(torch.optim.Optimizer):
    """Takes no step; its groups may be without a learning rate."""

    def __init__(self, *lrs: float | None) -> None:
        groups = [{"params": [torch.zeros(1, requires_grad=True)]} | ({} if lr is None else {"lr": lr}) for lr in lrs]
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> None:
        if closure is not None:
            closure()


def used(lr_factor: LRFactor) -> list[float | None]:
    """The rates inside a step, as a hook sees them that was registered later."""
    seen: list[float | None] = []
    handle = lr_factor.optimizer.register_step_pre_hook(lambda o, *_: seen.extend(g.get("lr") for g in o.param_groups))
    lr_factor.optimizer.step()
    handle.remove()
    return seen


@pytest.mark.parametrize("permanent", [0.5, 2.0, 1.0])
def test_inside_a_step_every_rate_is_multiplied_and_afterwards_the_users_are_back(permanent: float) -> None:
    lr_factor = LRFactor(Idle(1.0, None, 3.0))
    lr_factor.set_permanent(permanent)
    assert used(lr_factor) == [permanent, None, 3 * permanent]
    assert [group.get("lr") for group in lr_factor.optimizer.param_groups] == [1.0, None, 3.0]


def test_a_rate_that_the_user_sets_to_the_reduced_one_between_two_steps_stays() -> None:
    lr_factor = LRFactor(Idle(1.0))
    lr_factor.reduce(0.5)
    assert used(lr_factor) == [0.5]
    lr_factor.optimizer.param_groups[0]["lr"] = 0.5
    assert used(lr_factor) == [0.25]
    assert lr_factor.optimizer.param_groups[0]["lr"] == 0.5


def test_a_factor_is_neutral_until_it_changes_a_learning_rate_or_has_to_recover() -> None:
    assert factor().neutral
    for change in (lambda f: f.reduce(0.5), lambda f: f.set_permanent(2.0), lambda f: f.cap(0.5), lambda f: f.cap(9.0)):
        lr_factor = factor(hold=7)
        change(lr_factor)
        lr_factor.recover()
        assert not lr_factor.neutral
        other = factor()
        other.load_state_dict(lr_factor.state_dict())
        assert not other.neutral
        assert other.state_dict() == lr_factor.state_dict()
    lr_factor = factor(hold=1, ramp=1)
    lr_factor.reduce(0.5)
    recover(lr_factor, 5)
    lr_factor.apply()
    assert lr_factor.neutral
    lr_factor.set_permanent(0.5)
    lr_factor.factor = 1.0
    lr_factor.apply()
    assert not lr_factor.neutral  # it will fall back to its base


def test_outside_of_a_step_the_users_rate_is_never_touched() -> None:
    lr_factor = factor()
    lr_factor.reduce(0.1)
    lr_factor.apply()
    assert lr_factor.optimizer.param_groups[0]["lr"] == 1.0
    lr_factor.close()
    lr_factor.optimizer.param_groups[0]["params"][0].grad = torch.ones(1)
    lr_factor.optimizer.step()
    assert float(lr_factor.optimizer.param_groups[0]["params"][0]) == -1.0


def test_after_a_step_that_raised_the_next_one_begins_with_the_users_rate() -> None:
    lr_factor = factor()
    lr_factor.reduce(0.5)
    with pytest.raises(ZeroDivisionError):
        lr_factor.optimizer.step(lambda: 1 / 0)
    lr_factor.restore()
    assert lr_factor.optimizer.param_groups[0]["lr"] == 1.0
    lr_factor.apply()
    assert lr_factor.optimizer.param_groups[0]["lr"] == 1.0


# ---------------------------------------------------------------- one trial against another


def test_the_level_leaves_the_largest_tenth_out() -> None:
    assert level_of([1.0] * 9 + [100.0]) == (1.0, 0.0)
    assert level_of([1.0] * 8 + [100.0])[0] == pytest.approx(12.0)  # of nine all are kept
    assert level_of([1.0] * 18 + [100.0] * 2) == (1.0, 0.0)
    assert level_of([5.0]) == (5.0, 0.0)
    assert level_of([1.0, 3.0]) == (2.0, 1.0)
    mean, error = level_of([3.0, 1.0, 2.0, 4.0])
    assert mean == 2.5
    assert error == pytest.approx(math.sqrt(1.25 / 3))


@pytest.mark.parametrize(("level", "wins"), [(0.89, True), (0.9, False), (0.91, False)])
def test_a_later_trial_must_be_better_beyond_chance(level: float, wins: bool) -> None:
    best = TrialRun("a", "", level=1.0, error=0.03)
    assert better(TrialRun("b", "", level=level, error=0.04), best) == wins


def test_a_trial_that_tells_samples_apart_beats_one_that_does_not_whatever_the_loss() -> None:
    free, blocked = TrialRun("a", "", level=9.0), TrialRun("b", "", level=1.0, blocked=True)
    assert better(free, blocked)
    assert not better(blocked, free)
    assert better(TrialRun("c", "", level=0.5, blocked=True), blocked)


@pytest.mark.parametrize(("decades", "blocked"), [(-5.0, True), (-4.9, False), (3.9, False), (4.0, True)])
def test_a_gradient_is_blocked_when_it_loses_five_decades_or_gains_four(decades: float, blocked: bool) -> None:
    gradient = np.array([10.0**decades, 1.0, 1.0, 1.0])
    assert is_blocked(ActivationStats(time={"a": np.ones(4), "b": gradient})) == blocked
    assert not is_blocked(ActivationStats(time={"a": np.ones(4)}))
    assert not is_blocked(None)


def test_a_layer_that_answers_every_sample_alike_is_blocked() -> None:
    assert is_blocked(ActivationStats(layers=("a", "b"), spread=np.array([0.0049, 1.0])))
    assert not is_blocked(ActivationStats(layers=("a", "b"), spread=np.array([0.0051, 1.0])))


# ---------------------------------------------------------------- the search

BLOCKED = ActivationStats(layers=("a", "b"), spread=np.array([0.0, 1.0]))
OPEN = ActivationStats(layers=("a", "b"), spread=np.array([1.0, 1.0]))


class Run:
    """A search on a tiny net whose losses a test chooses; a candidate sets the weight to a number of its own.

    Args:
        before: Losses before the search.
        candidates: Weights that the candidates set, by name.
        window: Steps of a trial.
        settings: Further arguments of `RemedySearch.begin`.
    """

    def __init__(
        self, before: Sequence[float | None] = (1.0,) * 30, candidates: str = "ab", window: int = 24, **settings: Any
    ) -> None:
        self.net = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.changes, self.cancelled = 0, 0
        self.search = RemedySearch(self.net, optimizer, LRFactor(optimizer), self.count)
        self.search.remember_initial()
        for loss in before:
            self.search.observe(loss)
        with torch.no_grad():
            self.net.weight.fill_(0.0)
        found = Finding("no_progress", 30)
        self.started = self.search.begin(found, [self.candidate(c) for c in candidates], window, **settings)

    def count(self) -> None:
        self.changes += 1

    def candidate(self, name: str) -> Candidate:
        def apply() -> Action:
            if name.isupper():  # begins anew from the initial weights
                assert self.search.restart()
            with torch.no_grad():
                self.net.weight.fill_(float(ord(name)))
            return Action(name, f"did {name}")

        return Candidate(name, name, f"cause of {name}", (apply,))

    def cancel(self) -> None:
        self.cancelled += 1

    def follow(self, *losses: float | None, stats: ActivationStats | None = None) -> list[TrialEvent]:
        events = [
            self.search.follow(loss, loss is not None and math.isfinite(loss), stats, self.cancel) for loss in losses
        ]
        return [event for event in events if event is not None]

    @property
    def weight(self) -> str:
        """Name of the candidate whose weight is in force; empty for that from before the search."""
        return chr(int(self.net.weight)).strip("\0")


def summary(events: Sequence[TrialEvent]) -> list[str]:
    return [f"{event.kind} {event.remedies}".strip() for event in events]


def noisy(level: float, noise: float, steps: int = 24) -> list[float]:
    return [level + noise * sign for _ in range(steps // 2) for sign in (1, -1)]


def test_a_trial_lasts_its_window_and_the_statistics_of_its_last_step_are_wanted() -> None:
    run = Run()
    assert run.search.active
    wanted = []
    for _ in range(23):
        wanted.append(run.search.wants_activation_stats)
        assert not run.follow(1.0)
    assert (run.cancelled, run.weight) == (0, "a")
    assert [*wanted, run.search.wants_activation_stats] == [False] * 23 + [True]
    assert summary(run.follow(1.0)) == [f"{STARTED} b"]
    assert (run.cancelled, run.weight) == (1, "b")
    assert run.search.wants_activation_stats is False
    assert not RemedySearch(run.net, run.search.optimizer, run.search.lr_factor).wants_activation_stats


def test_steps_that_are_not_finite_count_towards_the_window() -> None:
    run = Run()
    run.follow(math.nan, math.nan, *[1.0] * 20)
    assert not run.search.wants_activation_stats
    assert not run.follow(1.0)
    assert run.search.wants_activation_stats
    assert summary(run.follow(1.0)) == [f"{STARTED} b"]


def test_each_trial_begins_from_the_same_weights() -> None:
    run = Run()
    bias = float(run.net.bias)
    with torch.no_grad():
        run.net.bias.add_(1.0)  # as training does
    run.follow(*[1.0] * 24)
    assert float(run.net.bias) == bias


def test_each_trial_begins_where_the_search_began_and_tells_so() -> None:
    run = Run(candidates="abc")
    assert (run.changes, summary([run.started])) == (1, [f"{STARTED} a"])  # type: ignore[list-item]
    assert (run.started.about, run.started.summary, run.started.cause) == ("no_progress", "did a", "cause of a")  # type: ignore[union-attr]
    events = run.follow(*[1.0] * 72)
    assert summary(events) == [f"{STARTED} b", f"{STARTED} c", EXHAUSTED]
    assert (events[-1].summary, events[-1].trials, events[-1].about) == ("did a; did b; did c", 3, "no_progress")
    assert (run.weight, run.changes, run.search.active) == ("", 4, False)


def test_nothing_to_try_is_no_search() -> None:
    run = Run(candidates="")
    assert (run.started, run.search.active) == (None, False)


# -- when a trial fails


@pytest.mark.parametrize(
    ("good", "bad", "failed"), [(0, 2, False), (0, 3, True), (8, 3, True), (12, 3, False), (11, 3, True)]
)
def test_a_trial_fails_after_three_steps_that_are_not_finite_and_a_fifth_of_all(
    good: int, bad: int, failed: bool
) -> None:
    run = Run(window=40)
    run.follow(*[0.9] * good)
    events = run.follow(*[math.nan] * bad)
    assert summary(events) == ([f"{STARTED} b"] if failed else [])
    assert run.cancelled == bad + failed


def test_a_step_without_a_loss_counts_as_failed_and_a_loss_that_is_not_clean_as_well() -> None:
    run = Run()
    assert summary(run.follow(None, None, None)) == [f"{STARTED} b"]
    run = Run()
    events = [run.search.follow(1.0, False, None, run.cancel) for _ in range(3)]
    assert events[-1] is not None
    events = [run.search.follow(None, True, None, run.cancel) for _ in range(3)]
    assert events[-1] is not None


@pytest.mark.parametrize("window", [24, 48, 90])
def test_a_trial_that_rises_above_three_times_the_loss_fails_after_a_third_of_it(window: int) -> None:
    enough = max(16, window // 3)
    run = Run(window=window)
    assert not run.follow(*[3.01] * (enough - 1))
    assert summary(run.follow(3.01)) == [f"{STARTED} b"]
    assert not Run(window=window).follow(*[3.0] * (window - 1))


def test_a_trial_that_comes_down_from_a_high_loss_does_not_fail() -> None:
    assert not Run().follow(*[9.0 - 0.1 * step for step in range(23)])
    assert summary(Run().follow(*[3.5 + 0.1 * step for step in range(16)])) == [f"{STARTED} b"]


def test_the_higher_of_the_first_losses_and_those_before_the_search_is_the_measure_of_failure() -> None:
    fallen = [8.0] * 8 + [1.0] * 30
    assert not Run(fallen).follow(*[20.0] * 23)
    assert Run(fallen).follow(*[25.0] * 16)
    risen = [1.0] * 8 + [8.0] * 30
    assert not Run(risen).follow(*[20.0] * 23)
    assert Run(risen).follow(*[25.0] * 16)
    assert not Run([-8.0] * 38).follow(*[20.0] * 23)  # the size of a loss counts
    assert not Run([None, math.nan, math.inf]).follow(*[1e9] * 23)  # without a measure nothing fails
    assert Run([1.0] * 2).follow(*[4.0] * 16)  # too few losses before the search: the first ones alone


# -- which trial is kept


def test_a_failed_trial_is_never_kept() -> None:
    run = Run(candidates="a")
    (event,) = run.follow(*[math.nan] * 3)
    assert (event.kind, run.weight) == (EXHAUSTED, "")
    run = Run([math.nan] * 30, candidates="a")
    (event,) = run.follow(5.0, *[math.nan] * 3)
    assert (event.kind, run.weight) == (EXHAUSTED, "")
    run = Run([math.nan] * 30, candidates="ab")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert summary(run.follow(*[math.nan] * 3)) == [f"{STARTED} b"]
    events = run.follow(*[1e9] * 24)
    assert (summary(events), run.weight) == ([f"{KEPT} b"], "b")


@pytest.mark.parametrize(("level", "kept"), [(0.955, True), (0.97, False)])
def test_a_trial_must_beat_the_loss_before_beyond_chance(level: float, kept: bool) -> None:
    # A tenth left out, the loss before is 0.995 +- 0.011 and that of the trial's later half 0.0045 lower +- 0.016.
    run = Run(noisy(1.0, 0.05, 30), candidates="a")
    (event,) = run.follow(*noisy(level, 0.05))
    assert (event.kind == KEPT) == kept
    assert run.weight == ("a" if kept else "")


def test_without_noise_anything_lower_is_kept_and_the_same_is_not() -> None:
    assert Run(candidates="a").follow(*[0.999] * 24)[0].kind == KEPT
    assert Run(candidates="a").follow(*[1.0] * 24)[0].kind == EXHAUSTED


@pytest.mark.parametrize(("level", "kept"), [(1.03, True), (1.06, False)])
def test_a_trial_that_tells_samples_apart_again_may_be_worse_by_chance(level: float, kept: bool) -> None:
    for before, after, expected in ((BLOCKED, OPEN, kept), (BLOCKED, BLOCKED, False), (OPEN, OPEN, False)):
        run = Run(noisy(1.0, 0.05, 30), candidates="a", activation_stats=before)
        run.follow(*noisy(level, 0.05)[:-1], stats=after)
        (event,) = run.follow(level - 0.05)
        assert (event.kind == KEPT) == expected


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("noise", "kept"), [(2.0, True), (1.7, False)])
def test_the_scatter_of_an_exploded_run_is_no_reason_for_care(sign: int, noise: float, kept: bool) -> None:
    # The loss before is 2 or -2, its error noise / sqrt(3): above 1, half of that loss, the run has exploded.
    (event,) = Run(noisy(2.0 * sign, noise, 4), candidates="a").follow(*[2.0 * sign - 0.1] * 24)
    assert (event.kind == KEPT) == kept


def test_a_run_without_a_finite_loss_keeps_any_trial_with_one() -> None:
    run = Run([math.nan] * 30, candidates="a")
    (event,) = run.follow(*[1e9] * 24)
    assert (event.kind, event.loss, event.before, event.improved) == (KEPT, 1e9, math.inf, True)


def test_the_loss_before_is_that_of_the_last_window_and_of_at_least_three_steps() -> None:
    (event,) = Run([9.0] * 30 + [1.0] * 24, candidates="a").follow(*[0.5] * 24)
    assert event.before == 1.0
    (event,) = Run([1.0] * 30 + [9.0], candidates="a").follow(*[0.5] * 24)
    assert event.before == pytest.approx(1.0)  # a tenth is left out
    assert Run([1.0] * 2, candidates="a").follow(*[0.5] * 24)[0].before == math.inf
    assert Run([1.0] * 3, candidates="a").follow(*[0.1] * 24)[0].before == 1.0
    long = Run([-9.0] * 10 + [1.0] * 1000, candidates="a", window=2000)
    assert long.search._level == 1.0


@pytest.mark.parametrize(("level", "improved"), [(0.91, False), (0.89, True)])
def test_a_tenth_less_is_an_improvement(level: float, improved: bool) -> None:
    for shift in (0.0, -2.0):  # of a negative loss: a tenth of its size
        (event,) = Run([1.0 + shift] * 30, candidates="a", clearly=0.0).follow(*[level + shift] * 24)
        assert (event.kind, event.improved, event.loss) == (KEPT, improved, pytest.approx(level + shift))
    for level in (9.5, 9.0):
        (event,) = Run([10.0] * 30, candidates="a", clearly=0.0).follow(*[level] * 24)
        assert (event.kind, event.improved) == (KEPT, False)


def test_the_later_half_of_a_trial_is_judged() -> None:
    (event,) = Run(candidates="a").follow(*[0.9] * 12, *[0.8] * 12)
    assert event.loss == pytest.approx(0.8)


def test_the_best_of_several_trials_is_kept_and_the_first_of_equals() -> None:
    run = Run(candidates="abcd")
    events = run.follow(*[0.95] * 24, *[0.9] * 24, *[0.9] * 24, *[0.97] * 24)
    assert (summary(events)[-1], run.weight) == (f"{KEPT} b", "b")
    assert (run.search.kept.name, events[-1].cause) == ("b", "cause of b")  # type: ignore[union-attr]
    assert run.search.kept.end is None  # type: ignore[union-attr]
    assert run.changes == 5  # once a trial, and once when the best is put back


def test_the_statistics_of_the_trial_that_is_kept_go_with_it() -> None:
    run = Run(candidates="a")
    run.follow(*[0.9] * 5, stats=BLOCKED)
    run.follow(*[0.9] * 5, stats=OPEN)
    run.follow(*[0.9] * 14)
    assert run.search.kept.activation_stats is OPEN  # type: ignore[union-attr]


# -- when a search ends early


def from_start(level: float, start: float = 1.0) -> list[float]:
    """The losses of a trial that begins where the run began."""
    return [start, *[level] * 23]


@pytest.mark.parametrize(("level", "ends"), [(0.69, True), (0.71, False)])
def test_a_trial_below_seventy_percent_ends_the_search(level: float, ends: bool) -> None:
    (event,) = Run().follow(*from_start(level))
    assert (event.kind == KEPT) == ends
    assert Run(clearly=0.5).follow(*from_start(0.6))[0].kind == STARTED
    assert Run(clearly=0.5).follow(*from_start(0.5))[0].kind == STARTED
    assert Run(clearly=0.5).follow(*from_start(0.4))[0].kind == KEPT


def test_a_clear_winner_is_below_the_start_of_the_run_too() -> None:
    risen = [0.5] * 8 + [1.0] * 30
    assert Run(risen).follow(*from_start(0.45, 0.5))[0].kind == STARTED
    assert Run(risen).follow(*from_start(0.34, 0.5))[0].kind == KEPT
    assert Run().follow(*from_start(0.45, 0.2))[0].kind == STARTED  # the trial's own first loss is such a start, too
    fallen = [2.0] * 8 + [1.0] * 30
    assert Run(fallen).follow(*from_start(0.71, 2.0))[0].kind == STARTED
    assert Run([-1.0] * 30).follow(*from_start(-1.29, -1.0))[0].kind == STARTED
    assert Run([-1.0] * 30).follow(*from_start(-1.31, -1.0))[0].kind == KEPT


@pytest.mark.parametrize(("noise", "ends"), [(0.3, True), (0.4, False)])
def test_a_clear_winner_is_clear_beyond_its_noise(noise: float, ends: bool) -> None:
    # Its first loss is 0.5 + noise: the gain is 0.25 + 0.59 * noise, four times the error 1.26 * noise.
    (event,) = Run().follow(*noisy(0.5, noise))
    assert (event.kind == KEPT) == ends


def test_a_trial_that_is_blocked_at_its_end_is_no_clear_winner() -> None:
    assert Run().follow(*[0.1] * 24, stats=BLOCKED)[0].kind == STARTED
    assert Run().follow(*[0.1] * 24, stats=OPEN)[0].kind == KEPT


@pytest.mark.parametrize(("left", "trials"), [(47, 0), (48, 1), (71, 1), (72, 2), (math.inf, 3)])
def test_a_trial_begins_only_if_the_run_has_as_many_steps_left_afterwards(left: float, trials: int) -> None:
    run = Run(candidates="abc", left=left)
    events = run.follow(*[1.0] * 24 * trials)
    assert (run.started is None) == (trials == 0)
    assert (events[-1].trials if events else 0) == trials


# -- beginnings


def test_a_later_search_restarts_where_the_trial_that_was_kept_began() -> None:
    run = Run(candidates="A")
    with torch.no_grad():
        run.net.weight.fill_(7.0)
    assert run.follow(*[0.1] * 24)[0].kind == KEPT
    assert float(run.net.weight) == 7.0
    assert run.search.restart()
    assert run.weight == "A"


def test_a_trial_without_a_restart_leaves_the_initial_weights_as_they_were() -> None:
    run = Run(candidates="Ab")
    initial = run.search.initial
    run.follow(*[1.0] * 24, *[0.1] * 24)
    assert run.weight == "b"
    assert run.search.initial is initial
    assert not RemedySearch(run.net, run.search.optimizer, run.search.lr_factor).restart()


def test_where_the_loss_began_is_the_median_of_the_first_eight_finite_losses() -> None:
    run = Run([None, math.nan, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 800.0, 9.0, 9.0])
    assert run.search.initial_loss == 4.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(Run([]).search.initial_loss)
    again = Run([])
    with pytest.warns(UserWarning, match="saved during a trial of a. The trial is not judged any more"):
        again.search.load_state_dict(run.search.state_dict())
    assert again.search.initial_loss == 4.5


def test_what_was_tried_before_a_checkpoint_is_not_tried_again_and_the_losses_before_a_search_count() -> None:
    run, other = Run(candidates="a"), Run([], candidates="")
    run.follow(*[1.0] * 24)
    run.search.observe(5.0), run.search.observe(5.0), run.search.observe(5.0)
    assert not run.search.active
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.search.load_state_dict(run.search.state_dict())
    event = other.search.begin(Finding("x", 60), [other.candidate("a"), other.candidate("c")], 8)
    assert event is not None
    assert event.remedies == "c"
    assert other.search._level == 5.0


def test_adams_update_survives_a_checkpoint() -> None:
    run, other = Run([], candidates=""), Run([], candidates="")
    run.search.adam.begin(0.5, [0.1])
    other.search.load_state_dict(run.search.state_dict())
    assert other.search.adam.lr == 0.5


def test_losses_before_one_search_do_not_count_in_the_next() -> None:
    run = Run(candidates="a")
    run.follow(*[1.0] * 24)
    for _ in range(3):
        run.search.observe(5.0)
    assert run.search.begin(Finding("x", 60), [run.candidate("c")], 8) is not None
    assert run.search._level == 5.0
