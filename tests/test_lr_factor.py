"""The factor on the learning rate, under every kind of schedule."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler as S

from lightning_gradguard.step.lr_factor import LRFactor

SCHEDULES = {
    "none": lambda o: None,
    "lambda": lambda o: S.LambdaLR(o, lambda s: 1 / (1 + s)),
    "step": lambda o: S.StepLR(o, 3, 0.5),
    "exponential": lambda o: S.ExponentialLR(o, 0.9),
    "linear": lambda o: S.LinearLR(o, total_iters=10),
    "polynomial": lambda o: S.PolynomialLR(o, 12),
    "cosine": lambda o: S.CosineAnnealingLR(o, 8, eta_min=0.01),
    "restarts": lambda o: S.CosineAnnealingWarmRestarts(o, 5),
    "one-cycle": lambda o: S.OneCycleLR(o, 1.0, total_steps=20),
    "cyclic": lambda o: S.CyclicLR(o, 0.1, 1.0, 4),
    "sequential": lambda o: S.SequentialLR(o, [S.ConstantLR(o, 0.1, 4), S.ExponentialLR(o, 0.9)], [4]),
    "chained": lambda o: S.ChainedScheduler([S.ConstantLR(o, 0.1, 4), S.ExponentialLR(o, 0.9)]),
}


def used_rates(name: str, factor_at: int | None) -> tuple[list[float], list[float]]:
    """The learning rate in force inside each step, and as everybody else sees it."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    schedule = SCHEDULES[name](optimizer)
    scale = LRFactor(optimizer, hold=1000)
    inside: list[float] = []
    outside: list[float] = []
    # A pre-hook registered after the scale's runs after it: it sees what the step will use.
    optimizer.register_step_pre_hook(lambda o, *_: inside.append(o.param_groups[0]["lr"]))
    for step in range(16):
        if step == factor_at:
            scale.reduce(0.1)
        weight.grad = torch.ones(1)
        optimizer.step()
        outside.append(optimizer.param_groups[0]["lr"])
        if schedule is not None:
            schedule.step()
    return inside, outside


@pytest.mark.parametrize("name", SCHEDULES)
def test_ratio_is_exact_and_the_schedule_never_sees_it(name: str) -> None:
    plain_inside, plain_outside = used_rates(name, None)
    inside, outside = used_rates(name, 5)
    assert outside == plain_outside
    assert inside[:5] == plain_inside[:5]
    assert inside[5:] == pytest.approx([0.1 * lr for lr in plain_inside[5:]], rel=1e-12)


def test_a_tensor_learning_rate_is_changed_in_place() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    lr = torch.tensor(0.5)
    optimizer = torch.optim.Adam([weight], lr=lr, capturable=False, foreach=False)
    scale = LRFactor(optimizer)
    scale.reduce(0.1)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == 0.5
    assert weight.item() == pytest.approx(-0.05)


def test_a_reduction_inside_the_step_counts_for_that_step() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scale = LRFactor(optimizer)

    def closure() -> None:
        weight.grad = torch.ones(1)
        scale.reduce(0.25)

    optimizer.step(closure)  # type: ignore[arg-type]
    assert weight.item() == -0.25
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_recovers_after_the_hold_and_holds_longer_after_a_relapse() -> None:
    scale = LRFactor(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), hold=10, ramp=5)
    scale.reduce(0.1)
    for _ in range(10):
        scale.recover()
    assert scale.factor == pytest.approx(0.1)
    for _ in range(5):
        scale.recover()
    assert scale.factor == pytest.approx(1.0)
    scale.reduce(0.1)
    scale.reduce(0.1)
    assert (scale.factor, scale.hold) == (pytest.approx(0.01), 20)


def test_an_exception_in_the_closure_leaves_the_users_rate() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scale = LRFactor(optimizer)
    scale.reduce(0.1)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    scale.close()
    assert optimizer.param_groups[0]["lr"] == 1.0
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_a_rate_that_the_closure_sets_is_multiplied_and_put_back() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    factor = LRFactor(optimizer)
    factor.reduce(0.5)

    def closure() -> None:  # as `training_step` of many language-model recipes, and then the guard's hook
        optimizer.param_groups[0]["lr"] = 0.1
        weight.grad = torch.ones(1)
        assert factor.effective_lr() == 0.05
        factor.apply()

    optimizer.step(closure)  # type: ignore[arg-type]
    assert float(weight) == pytest.approx(-0.05)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_rate_that_is_set_after_the_factor_is_left_alone() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    factor = LRFactor(optimizer)
    factor.reduce(0.5)

    def closure() -> None:
        weight.grad = torch.ones(1)
        factor.apply()
        optimizer.param_groups[0]["lr"] = 0.25

    optimizer.step(closure)  # type: ignore[arg-type]
    assert float(weight) == -0.25
    assert optimizer.param_groups[0]["lr"] == 0.25


def with_rates(*rates: float) -> LRFactor:
    """A factor with a hold of two steps and a ramp of one, on an optimizer with a group for each learning rate."""
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in rates]
    groups = [{"params": [weight], "lr": lr} for weight, lr in zip(weights, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    return LRFactor(optimizer, hold=2, ramp=1)


@pytest.mark.parametrize(
    ("steps", "base", "hold"),
    [(0, 0.3, 4), (19, 0.3, 4), (20, 0.3, 4), (21, 1.0, 2)],  # the hold is two steps, and ten times that is forgiven
)
def test_a_factor_that_fails_again_soon_grows_back_to_a_third_of_it(steps: int, base: float, hold: int) -> None:
    factor = with_rates(1.0)
    factor.reduce(0.5)
    for _ in range(3):
        factor.recover()
    assert factor.factor == 1.0
    for _ in range(steps):
        factor.optimizer.step()
    factor.reduce(0.01)
    assert (factor.base, factor.hold, factor.taken) == (base, hold, 0)
    for _ in range(hold + 3):
        factor.recover()
    assert factor.factor == pytest.approx(base)


def test_steps_count_from_the_last_reduction() -> None:
    factor = with_rates(1.0)
    factor.reduce(0.5)
    for _ in range(15):
        factor.optimizer.step()
    factor.reduce(0.5)
    for _ in range(15):
        factor.optimizer.step()
        factor.recover()
    factor.reduce(0.5)
    assert factor.hold == 4  # 15 steps after the last one, not 30


def test_the_base_is_never_below_the_factor() -> None:
    factor = with_rates(1.0)
    factor.reduce(0.5)
    for _ in range(3):
        factor.recover()
    factor.reduce(0.9)
    assert factor.base == factor.factor == 0.9


def test_the_end_of_a_reduction_counts_for_the_step_that_is_taking_place() -> None:
    factor = with_rates(0.5)
    factor.set_permanent(0.5)
    factor.reduce(0.1)
    rates = []

    def closure() -> None:
        rates.append(factor.optimizer.param_groups[0]["lr"])
        factor.end_reduction()
        rates.append(factor.optimizer.param_groups[0]["lr"])

    factor.optimizer.step(closure)  # type: ignore[arg-type]
    assert rates == [0.025, 0.25]
    assert factor.factor == 0.5


def test_closed_within_a_step_it_leaves_the_users_rate() -> None:
    factor = with_rates(0.5)
    factor.reduce(0.1)
    rates = []

    def closure() -> None:
        factor.close()
        rates.append(factor.optimizer.param_groups[0]["lr"])

    factor.optimizer.step(closure)  # type: ignore[arg-type]
    assert rates == [0.5]


@pytest.mark.parametrize(
    ("rates", "effective"),
    [
        ((0.5, 0.25), 0.05),
        ((0.0, 0.5), 0.05),
        ((0.0,), 0.0),
        ((0.5, -2.0), -2.0),
        ((0.5, math.inf), math.inf),
        ((0.5, math.nan), math.inf),
        ((0.5, -math.inf), math.inf),
        ((math.inf, -2.0), math.inf),
        ((-2.0, math.nan), -2.0),
    ],
)
def test_the_effective_rate_is_the_largest_or_the_first_that_is_none(
    rates: tuple[float, ...], effective: float
) -> None:
    factor = with_rates(*rates)
    factor.reduce(0.1)
    assert factor.effective_lr() == effective
