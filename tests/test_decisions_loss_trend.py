"""Where the loss trend changes its mind: each limit from both sides, with and without noise in the losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.loss_trend import INITIAL, LossTrend, State, follow, judge, renewed

#: Planned steps for which a block has four steps, and the first steps are three.
SHORT = 200
CONSTANT_LAYER = ActivationStats(layers=("a", "b"), spread=np.array([0.0, 1.0]))
HEALTHY_LAYER = ActivationStats(layers=("a", "b"), spread=np.array([1.0, 1.0]))


def run(losses: list[float], state: State = INITIAL, total_steps: int | None = SHORT, **fields: Any) -> State:
    for loss in losses:
        state = follow(state, loss, total_steps=total_steps, **fields)
    return state


def blocks(*means: float, noise: float = 0.0) -> list[float]:
    """Blocks of four losses with these means; the standard error of a mean is `noise` / sqrt(3)."""
    return [mean + sign * noise for mean in means for sign in (1, -1, 1, -1)]


def trend(*means: float, noise: float = 0.0, state: State = INITIAL) -> LossTrend:
    return judge(run(blocks(*means, noise=noise), state))


def without_signal(*means: float) -> LossTrend:
    """The trend when a hidden layer returns the same output for all samples, so that convergence is no excuse."""
    return judge(follow(run(blocks(*means)), None, activation_stats=CONSTANT_LAYER))


def test_nothing_is_reported_before_the_first_block() -> None:
    seen = judge(run([2.0] * 3))
    assert seen[:5] == (0, False, False, False, False)
    assert all(math.isnan(number) for number in seen[5:])
    assert judge(follow(INITIAL, None, activation_stats=CONSTANT_LAYER)) == judge(INITIAL)


@pytest.mark.parametrize(
    ("total", "size"), [(None, 100), (1000, 20), (1049, 20), (10, 4), (199, 4), (250, 5), (25_500, 500), (10**6, 500)]
)
def test_a_block_is_a_fiftieth_of_the_run_but_neither_tiny_nor_huge(total: int | None, size: int) -> None:
    state = run([1.0] * (size - 1), total_steps=total)
    assert judge(state).blocks == 0
    assert judge(run([1.0], state, total)).blocks == 1
    assert judge(run([1.0] * size, run([1.0], state, total), total)).blocks == 2


@pytest.mark.parametrize("loss", [None, math.nan, math.inf, -math.inf])
def test_a_loss_that_is_missing_or_not_finite_changes_nothing(loss: float | None) -> None:
    state = run([3.0, 2.0, 1.0])
    assert follow(state, loss) == state


def test_start_best_and_last() -> None:
    seen = judge(run([9.0, 5.0, 5.0, 5.0, *blocks(2.0, 1.0, 3.0), 0.0]))
    assert (seen.blocks, seen.start, seen.best, seen.last) == (4, 9.0, 1.0, 3.0)


def test_a_checkpoint_keeps_the_trend_as_a_list() -> None:
    state = run(blocks(1, 1, 1, 1, 1))
    assert judge({**state, "trend": list(judge(state))}) == judge(state)


# ---------------------------------------------------------------- stuck


def test_a_constant_loss_is_stuck_after_five_blocks() -> None:
    for count in range(1, 8):
        seen = trend(*[2.3] * count)
        assert (seen.is_stuck, seen.never_decreased) == (count >= 5, count >= 5)


@pytest.mark.parametrize(("last", "stuck"), [(2.01, True), (2.0, True), (1.999, False)])
def test_a_loss_that_has_decreased_is_stuck_when_its_last_four_blocks_are_flat(last: float, stuck: bool) -> None:
    seen = trend(2.3, 2.3, 2.1, 1.9, last, last)
    assert (seen.is_stuck, seen.never_decreased) == (stuck, False)
    assert trend(2.3, 2.3, 2.1, 1.9, last + 0.1, last - 0.1).is_stuck == stuck


@pytest.mark.parametrize(("less", "stuck"), [(0.11, True), (0.12, False)])
def test_a_decrease_within_the_noise_is_flat(less: float, stuck: bool) -> None:
    # Standard error of the difference of two means of two blocks: 0.1 / sqrt(3); twice that is 0.1155.
    assert trend(2.6, 2.6, 2.0, 2.0, 2.0 - less, 2.0 - less, noise=0.1).is_stuck == stuck


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("drop", "stuck"), [(0.29, True), (0.31, False)])
def test_a_flat_loss_may_have_converged_once_it_is_30_percent_below_the_first_steps(
    sign: int, drop: float, stuck: bool
) -> None:
    now = sign - drop
    assert trend(sign, now, now, now, now).is_stuck == stuck
    assert without_signal(sign, now, now, now, now).is_stuck


def test_what_activation_statistics_show_counts_at_once_and_until_the_next() -> None:
    state = run(blocks(1.0, 0.5, 0.5, 0.5, 0.5))
    lost = follow(state, None, activation_stats=CONSTANT_LAYER)
    assert [judge(s).is_stuck for s in (state, lost, run([0.5] * 4, lost))] == [False, True, True]
    assert not judge(follow(lost, None, activation_stats=HEALTHY_LAYER)).is_stuck


@pytest.mark.parametrize("start", [2.0, -2.0])
@pytest.mark.parametrize(("share", "stuck"), [(0.99e-4, False), (1.01e-4, True), (-0.99e-4, False), (-1.01e-4, True)])
def test_a_loss_near_zero_cannot_be_stuck(start: float, share: float, stuck: bool) -> None:
    assert without_signal(start, *[share * abs(start)] * 4).is_stuck == stuck


@pytest.mark.parametrize(("highest", "stuck"), [(5.99, False), (6.0, False), (6.01, True)])
@pytest.mark.parametrize("start", [2.0, -2.0])
def test_a_loss_that_came_near_zero_after_an_explosion_can_be_stuck(start: float, highest: float, stuck: bool) -> None:
    assert without_signal(start, highest, 0.0, 0.0, 0.0, 0.0).is_stuck == stuck


@pytest.mark.parametrize(("less", "never"), [(2.0, True), (3.0, True), (4.0, False)])
def test_only_a_decrease_by_more_than_3_percent_counts(less: float, never: bool) -> None:
    low = 100 - less
    assert trend(100, 100, low, low, low, low).never_decreased == never
    assert trend(100, 100, low, low, 100, 100).never_decreased == never  # nor is it forgotten


def test_the_first_steps_are_a_quarter_of_a_block() -> None:
    losses = [1.0] * 20 + [0.9] * 5 + [0.96] * 475  # 0.96 is more than 3 % below the first 20, but not the first 25
    assert judge(run(losses, total_steps=None)).never_decreased


@pytest.mark.parametrize(("less", "never"), [(0.045, True), (0.05, False)])
def test_a_decrease_within_the_noise_does_not_count(less: float, never: bool) -> None:
    # First steps 1 +- 0.03 (three of them: mean 1.01, error 0.02), then two blocks (error 0.01225): 0.0469 is chance.
    assert trend(1, 1, *[1.01 - less] * 2, 1, 1, noise=0.03).never_decreased == never


@pytest.mark.parametrize(("noise", "never"), [(0.06, True), (0.08, False)])
def test_noise_that_could_hide_a_decrease_by_10_percent_prevents_the_judgment(noise: float, never: bool) -> None:
    assert trend(*[1.0] * 6, noise=noise).never_decreased == never


@pytest.mark.parametrize(("low", "never"), [(1.1, True), (1.0, True), (0.9, False)])
def test_a_loss_below_half_of_the_first_steps_has_decreased_whatever_the_noise(low: float, never: bool) -> None:
    first = run([1.0, 2.5, 2.5, 2.0, *blocks(2.0)])  # three first steps of 2 on average
    noisy = run(blocks(low, low, noise=6.0), first)
    assert judge(noisy).blocks == 4
    assert noisy["decreased"] != never


@pytest.mark.parametrize(("now", "never"), [(5.1, True), (5.0, True), (4.9, False)])
def test_a_loss_below_half_of_the_very_first_one_has_decreased(now: float, never: bool) -> None:
    seen = judge(run([10.0, *[now] * 2499], total_steps=25_000))  # the first steps, a quarter of a block, are as low
    assert (seen.blocks, seen.never_decreased) == (5, never)


# ---------------------------------------------------------------- regressing


@pytest.mark.parametrize(("last", "above"), [(3.0, False), (3.01, True)])
def test_half_as_much_again_as_the_first_loss_is_above_the_start(last: float, above: bool) -> None:
    state = run([2.0, 2.5, 1.0, 1.0])
    seen = judge(run(blocks(last), state))
    assert (seen.above_start, seen.is_regressing) == (above, above)


@pytest.mark.parametrize(("last", "above"), [(-1.0, False), (-0.99, True)])
def test_half_the_size_of_a_negative_first_loss_above_it_is_above_the_start(last: float, above: bool) -> None:
    assert trend(-2.0, last).above_start == above


@pytest.mark.parametrize(("last", "above"), [(3.65, False), (3.75, True)])
def test_a_block_is_above_the_start_only_beyond_the_scatter_of_its_losses(last: float, above: bool) -> None:
    # The scatter of a loss is 0.3 * sqrt(4 / 3) = 0.346; twice that is 0.693.
    assert judge(run(blocks(last, noise=0.3), run(blocks(2.0)))).above_start == above


LEARNED = (2.0, 2.0, *[0.0] * 5)  # half of the progress is lost above 1.0


def test_progress_is_lost_when_four_of_six_blocks_say_so() -> None:
    assert [trend(*LEARNED, *[1.5] * count).is_regressing for count in range(7)] == [False] * 4 + [True] * 3
    assert [trend(*LEARNED, *[1.5] * 6, *[0.0] * count).is_regressing for count in range(5)] == [True] * 3 + [False] * 2
    assert not trend(*LEARNED, *[1.5] * 6).above_start


@pytest.mark.parametrize(("back", "lost"), [(1.0, False), (1.01, True)])
def test_more_than_half_of_the_progress_must_be_gone(back: float, lost: bool) -> None:
    assert trend(*LEARNED, *[back] * 5).is_regressing == lost
    assert trend(*[x + 1 for x in LEARNED], *[back + 1] * 5).is_regressing == lost
    # A block that has come back to that level does not count, although the ones before it have risen above it.
    assert not trend(*LEARNED, 1.5, *[min(back, 1.0)] * 5).is_regressing


def test_the_best_block_may_be_the_one_just_before() -> None:
    assert trend(2.0, 2.0, 0.0, *[1.5] * 4).is_regressing


@pytest.mark.parametrize(("back", "lost"), [(1.99, False), (2.01, True)])
def test_below_zero_more_than_all_of_the_progress_must_be_gone(back: float, lost: bool) -> None:
    assert trend(2.0, 2.0, *[-0.1] * 5, *[back] * 5).is_regressing == lost


@pytest.mark.parametrize(("back", "lost"), [(2.18, False), (2.2, True)])
def test_below_zero_noise_counts_as_well(back: float, lost: bool) -> None:
    # First steps 2 +- 0.05 (mean 2.0167, error 0.0333), a block has 0.0289: four times both are 0.176.
    assert trend(2.0, 2.0, *[-0.1] * 5, *[back] * 5, noise=0.05).is_regressing == lost
    calm = run(blocks(2.0, *[-0.1] * 5), run(blocks(2.0, noise=0.05)))
    assert judge(run(blocks(*[back] * 4, noise=0.05), calm)).is_regressing == lost
    noisy = run(blocks(-0.1, noise=0.5), calm)  # the noise of the block itself counts, not that of another
    assert judge(run(blocks(*[back] * 4), noisy)).is_regressing


@pytest.mark.parametrize(("noise", "lost"), [(0.7, True), (0.85, False)])
def test_a_rise_within_the_noise_is_no_loss_of_progress(noise: float, lost: bool) -> None:
    # Rise 1.2; twice the error of the last block and of the best one is 2 * hypot(noise, 0.1) / sqrt(3).
    calm = run(blocks(*[1.0] * 5, noise=0.1), run(blocks(3.0, 3.0)))
    assert judge(run(blocks(*[2.2] * 4, noise=1.02 * noise / 0.7), calm)).is_regressing == lost
    noisy = run(blocks(1.0, noise=3.0), calm)  # the noise of the block itself counts, not that of the one before
    assert judge(run(blocks(*[2.2] * 4), noisy)).is_regressing


@pytest.mark.parametrize(("noise", "lost"), [(0.08, True), (0.12, False)])
def test_progress_within_the_noise_cannot_be_lost(noise: float, lost: bool) -> None:
    # Progress 0.3: four times the error of the best block and of the first steps is 4 * noise * 0.88.
    assert trend(2.0, 2.0, *[1.7 + noise / 3] * 5, *[2.0] * 4, noise=noise).is_regressing == lost


@pytest.mark.parametrize(("between", "lost"), [(9, True), (10, False)])
def test_a_drift_over_more_than_ten_blocks_is_not_a_loss_of_progress(between: int, lost: bool) -> None:
    for slow in (0.9, 1.0):
        assert trend(*LEARNED, *[slow] * between, *[1.5] * 4).is_regressing == lost
    assert trend(
        *LEARNED, *[0.5] * between, *[0.9] * 9, *[1.5] * 4
    ).is_regressing  # a quarter up is still near the best


def test_a_loss_above_the_first_steps_from_the_beginning_has_no_progress_to_lose() -> None:
    assert not trend(1.0, 1.2, 1.2, 1.4, 1.4, 1.4, 1.4, 1.4).is_regressing


def test_the_first_two_blocks_show_no_loss_of_progress() -> None:
    losses = [2.0] * 25 + [1.9] * 75 + [2.0] * 300
    assert not judge(run([*losses, *[2.0] * 100], total_steps=None)).is_regressing
    assert judge(run([*losses, *[2.0] * 200], total_steps=None)).is_regressing


# ---------------------------------------------------------------- warmup, age, repair


@pytest.mark.parametrize(("growth", "count"), [(1.21, 1), (1.19, 6), (0.5, 6)])
def test_blocks_of_a_warmup_are_discarded(growth: float, count: int) -> None:
    state = INITIAL
    for block in range(6):
        state = run(blocks(2.0 + block), state, lr=0.1 * growth**block)
    assert (judge(state).blocks, judge(state).best) == (count, 7.0 if count == 1 else 2.0)
    assert judge(run(blocks(3, 3), state, lr=0.1 * growth**5)).blocks == count + 2


def test_all_blocks_before_the_last_increase_of_the_learning_rate_are_discarded() -> None:
    noisy = run(blocks(2.0, 2.0, 2.0, noise=0.5), lr=0.1)
    state = run(blocks(*[2.0] * 5), noisy, lr=0.2)
    assert (judge(state).blocks, judge(state).never_decreased) == (5, True)
    assert judge(run(blocks(2.0), run(blocks(2.0), lr=0.5), lr=0.6)).blocks == 2  # by 20 % is not yet an increase


def test_blocks_older_than_the_last_200_are_forgotten() -> None:
    noisy = run(blocks(1.0, noise=0.2))
    state = run([1.0] * 4 * 199, noisy)
    assert (judge(state).blocks, judge(state).never_decreased) == (200, False)
    state = run([1.0] * 4, state)
    assert (judge(state).blocks, judge(state).never_decreased) == (200, True)


@pytest.mark.parametrize(("improved", "never"), [(True, False), (False, True)])
def test_a_repair_keeps_where_the_loss_began(improved: bool, never: bool) -> None:
    state = renewed(run(blocks(2.0, 2.0, 2.0)), improved)
    assert judge(state) == judge(INITIAL)
    assert judge(run(blocks(*[2.0] * 5), state, total_steps=10**6)).never_decreased == never
    assert trend(3.1, state=state).above_start
    assert trend(*[1.9] * 2, *[2.0] * 5, state=state).never_decreased is False
    assert not trend(1.0, *[0.5] * 5, state=renewed(run(blocks(1.0)), improved)).is_stuck


def test_a_repair_does_not_forget_an_earlier_decrease() -> None:
    assert not trend(*[2.0] * 5, state=renewed(run(blocks(2.0, 1.5, 1.5)), False)).never_decreased
