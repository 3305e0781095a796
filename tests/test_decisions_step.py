"""How long the learning rate stays reduced, and what a checkpoint keeps of Adam's update."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_gradguard.step.adam_update import AdamUpdate
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


def test_adams_update_survives_a_checkpoint() -> None:
    weight = torch.zeros(1, requires_grad=True)
    adam, other = (AdamUpdate(torch.optim.SGD([weight], lr=0.1)) for _ in range(2))
    adam.begin(0.5, [0.1])
    other.load_state_dict(adam.state_dict())
    assert other.lr == 0.5
