from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_gradguard.step.snapshots import Snapshot, Snapshots

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()


def everything(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    state = [v for p in net.parameters() for v in optimizer.state.get(p, {}).values() if isinstance(v, torch.Tensor)]
    return [t.detach().clone() for t in (*net.state_dict().values(), *state)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rollback_is_bit_exact_in_place_and_leaves_the_schedule(name: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = OPTIMIZERS[name](net.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    snapshots = Snapshots(net, optimizer)
    for _ in range(3):
        step(net, optimizer)
    before, pointers = everything(net, optimizer), [p.data_ptr() for p in net.parameters()]
    snapshots.take(3)
    for _ in range(4):
        step(net, optimizer)
        schedule.step()
    assert snapshots.restore() is snapshots.ring[-1]
    assert all(torch.equal(a, b) for a, b in zip(everything(net, optimizer), before, strict=True))
    assert [p.data_ptr() for p in net.parameters()] == pointers
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**4)


def test_state_born_after_the_snapshot_is_removed() -> None:
    net = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(net.parameters())
    snapshots = Snapshots(net, optimizer)
    snapshots.take(0)
    step(net, optimizer)
    snapshots.restore()
    assert not optimizer.state


def test_the_ring_keeps_a_few_and_an_unhelpful_one_gives_way() -> None:
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    snapshots = Snapshots(net, optimizer, keep=2)
    assert snapshots.restore() is None
    for i in range(5):
        snapshots.take(i)
    assert [s.step for s in snapshots.ring] == [3, 4]
    restored = [snapshots.restore() for _ in range(5)]
    assert [s.step for s in restored if s is not None] == [4, 3, 3, 3, 3]


def test_bytes_are_what_is_held() -> None:
    net = nn.Linear(10, 10)
    optimizer = torch.optim.Adam(net.parameters())
    snapshots = Snapshots(net, optimizer)
    assert snapshots.take(0).nbytes == 110 * 4
    net(torch.randn(8, 10)).sum().backward()
    optimizer.step()
    assert snapshots.take(1).nbytes == 110 * 4 * 3 + 2 * 4  # two moments, two step counters


def test_the_snapshot_does_not_follow_the_weights() -> None:
    net = nn.Linear(4, 4)
    snapshots = Snapshots(net, torch.optim.SGD(net.parameters(), lr=0.1))
    kept = copy.deepcopy(snapshots.take(0).params)
    with torch.no_grad():
        net.weight.fill_(7)
    assert torch.equal(snapshots.ring[0].params[0], kept[0])


def test_the_memory_of_the_oldest_is_used_again_and_the_others_stay() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(net.parameters())
    snapshots = Snapshots(net, optimizer, keep=2)
    taken = []
    for i in range(4):
        step(net, optimizer)
        here = everything(net, optimizer)
        addresses = {t.data_ptr() for s in snapshots.ring[:1] for t in s.tensors} if i >= 2 else set()
        taken.append([t.clone() for t in snapshots.take(i).tensors])
        assert not addresses or {t.data_ptr() for t in snapshots.ring[-1].tensors} == addresses
        assert sorted(float(t.sum()) for t in taken[-1]) == sorted(float(t.sum()) for t in here)
        assert all(torch.equal(a, b) for a, b in zip(snapshots.ring[-1].tensors, taken[-1], strict=True))
        assert i == 0 or all(torch.equal(a, b) for a, b in zip(snapshots.ring[0].tensors, taken[-2], strict=True))


def test_state_that_was_put_back_is_no_part_of_the_snapshot() -> None:
    net = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(net.parameters())
    snapshots = Snapshots(net, optimizer)
    step(net, optimizer)
    snapshots.take(1)
    optimizer.state.clear()
    snapshots.restore()
    kept = [t.clone() for t in snapshots.ring[0].tensors]
    step(net, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(snapshots.ring[0].tensors, kept, strict=True))


def test_a_snapshot_of_another_step_or_device_is_not_taken_for_this_one() -> None:
    net = nn.Linear(4, 4)
    snapshots = Snapshots(net, torch.optim.SGD(net.parameters(), lr=0.1))
    assert snapshots.of(0) is None
    taken = snapshots.take(3)
    assert snapshots.of(3) is taken
    assert snapshots.of(4) is None
    assert snapshots.newest is taken


@pytest.mark.parametrize(("devices", "found"), [(("cpu", "cpu"), True), (("cpu", "meta"), False), (("meta",), False)])
def test_a_snapshot_is_where_the_weights_are_only_if_all_of_them_are_on_the_host(
    devices: tuple[str, ...], found: bool
) -> None:
    weights = [nn.Parameter(torch.zeros(2, device=device)) for device in devices]
    snapshots = Snapshots(nn.ParameterList(weights), torch.optim.SGD(weights, lr=0.1))
    snapshots.ring = [Snapshot(3, tuple(torch.zeros(2) for _ in weights), {}, {}, {})]
    assert (snapshots.of(3) is not None) == found


# ---------------------------------------------------------------- the best one


def taken(*losses: float, keep: int = 2) -> Snapshots:
    """Snapshots of steps from 0 on with these losses, whose weights are all the number of the step."""
    net = nn.Linear(2, 2)
    snapshots = Snapshots(net, torch.optim.SGD(net.parameters(), lr=0.1), keep)
    for at, loss in enumerate(losses):
        with torch.no_grad():
            net.weight.fill_(at)
        snapshots.take(at, loss)
    return snapshots


@pytest.mark.parametrize(
    ("losses", "keep", "held", "best"),
    [
        ((3.0, 2.0, 1.0), 2, [1, 2], 2),
        ((1.0, 2.0, 3.0), 2, [0, 2], 0),
        ((1.0, 2.0, 1.0, 3.0), 2, [2, 3], 2),
        ((1.0, 2.0, 3.0, 4.0), 3, [0, 2, 3], 0),
        ((1.0, 2.0), 1, [1], 1),
        ((math.nan, 1.0), 2, [0, 1], 1),
        ((1.0, math.inf, math.nan), 2, [0, 2], 0),
        ((math.nan, math.nan, math.nan), 2, [1, 2], None),
        ((), 2, [], None),
    ],
)
def test_the_best_is_held_and_put_back(losses: tuple[float, ...], keep: int, held: list[int], best: int | None) -> None:
    snapshots = taken(*losses, keep=keep)
    assert [snapshot.step for snapshot in snapshots.ring] == held
    assert (snapshots.best.step if snapshots.best is not None else None) == best
    restored = snapshots.restore_best()
    expected = best if best is not None else (held[-1] if held else None)  # the newest where no loss is known
    assert (restored.step if restored is not None else None) == expected
    assert [snapshot.step for snapshot in snapshots.ring] == ([] if expected is None else [expected])
    assert snapshots.tries == bool(held)
    assert not held or snapshots.module.weight[0, 0] == expected  # type: ignore[index]


def test_two_are_kept_by_default() -> None:
    net = nn.Linear(2, 2)
    snapshots = Snapshots(net, torch.optim.SGD(net.parameters(), lr=0.1))
    assert (snapshots.keep, snapshots.tries, snapshots.newest) == (2, 0, None)


def test_losses_are_forgotten_and_snapshots_let_go() -> None:
    snapshots = taken(1.0, 2.0, 3.0)
    snapshots.forget_losses()
    assert snapshots.best is None
    assert [snapshot.step for snapshot in snapshots.ring] == [0, 2]
    snapshots.restore()
    snapshots.clear()
    assert (snapshots.ring, snapshots.tries) == ([], 0)


@pytest.mark.parametrize(("step", "newest", "held"), [(5, 2, [0, 2]), (2, 2, [0, 2]), (1, 0, [0]), (-1, None, [])])
def test_snapshots_up_to_a_step(step: int, newest: int | None, held: list[int]) -> None:
    snapshots = taken(1.0, 2.0, 3.0)
    found = snapshots.newest_until(step)
    assert (found.step if found is not None else None) == newest
    assert snapshots.newest_until() is snapshots.newest
    snapshots.restore()
    snapshots.forget_after(step)
    assert ([snapshot.step for snapshot in snapshots.ring], snapshots.tries) == (held, 0)


# ---------------------------------------------------------------- the optimizer's state

SAVED: dict[str, Any] = {"moment": torch.arange(3.0), "count": 3, "past": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("now", "in_place"),
    [
        ({"moment": torch.zeros(3), "count": 9, "past": [9.0]}, True),
        ({"moment": torch.zeros(5), "count": torch.zeros(3), "past": None}, False),  # of other forms
        ({"moment": 7}, False),
        ({"born": torch.zeros(3)}, False),
        ({}, False),
    ],
)
def test_the_optimizers_state_is_what_it_was_whatever_it_is_now(now: dict[str, Any], in_place: bool) -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.state[weight] = copy.deepcopy(SAVED)
    snapshots = Snapshots(nn.ParameterList([weight]), optimizer)
    assert snapshots.take(0).nbytes == 2 * 3 * 4
    optimizer.state[weight] = copy.deepcopy(now)
    before = optimizer.state[weight].get("moment")
    snapshots.restore()
    state = optimizer.state[weight]
    assert state.keys() == SAVED.keys()
    assert torch.equal(state["moment"], SAVED["moment"])
    assert (state["count"], state["past"]) == (3, [1.0, 2.0])
    assert (state["moment"] is before) == in_place
