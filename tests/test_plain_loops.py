"""Loops of your own: what a guard does in them is what it does in a Trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from pytorch_lightning.loggers import CSVLogger
from runs import loader, same_state
from torch import nn

from lightning_gradguard import GradGuard
from lightning_gradguard.loops import GuardedLoop
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.step_log import read_steps

OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2),
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def batches(bad: tuple[int, ...] = (), scale: float = math.nan, left_out: bool = False) -> list[Any]:
    """The batches of `runs.loader`; some of them multiplied by a number, or left out."""
    kept = [(x * scale if i in bad else x, y) for i, (x, y) in enumerate(loader()) if not (left_out and i in bad)]
    return [(x.clone(), y) for x, y in kept]


def alone(name: str, data: list[Any]) -> tuple[nn.Module, Any]:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    for x, y in data:
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def guarded(name: str, data: list[Any], fabric: Any = None, **settings: Any) -> tuple[nn.Module, Any, GradGuard]:
    guard, model = settings.pop("guard", None) or GradGuard(), net()
    optimizer = OPTIMIZERS[name](model.parameters())
    called, stepped = fabric.setup(model, optimizer) if fabric is not None else (model, optimizer)
    with GuardedLoop(guard, called, stepped, total_steps=len(data), fabric=fabric, **settings) as loop:
        for x, y in loop.batches(data):
            loop.backward(nn.functional.cross_entropy(called(x), y))
            loop.step()
    return model, optimizer, guard


@pytest.mark.parametrize("fabric", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_healthy_loop_is_not_changed(name: str, fabric: bool) -> None:
    model, _, guard = guarded(name, batches(), Fabric(accelerator="cpu", devices=1) if fabric else None)
    assert same_state(model, alone(name, batches())[0])
    assert (guard.incidents, guard.report().steps) == ((), 40)
    assert "automatic_optimization" not in vars(model)


@pytest.mark.parametrize("fabric", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_batch_leaves_no_trace(name: str, fabric: bool) -> None:
    bad = (20, 21)
    model, optimizer, guard = guarded(name, batches(bad), Fabric(accelerator="cpu", devices=1) if fabric else None)
    expected, other = alone(name, batches(bad, left_out=True))
    assert same_state(model, expected)
    for state, wanted in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert all(torch.equal(state[key], wanted[key]) for key in state)
    first = guard.incidents[0]
    assert (first.kind, first.steps, first.actions) == ("nonfinite", "20-21", ("SkipStep",))


def test_the_loss_of_a_step_is_the_sum_of_its_parts() -> None:
    guard, model, losses = GradGuard(), net(), []
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with GuardedLoop(guard, model, optimizer) as loop:
        for index, (x, y) in enumerate(loop.batches(batches()[:4])):
            losses.append(nn.functional.cross_entropy(model(x), y) / 4)
            loop.backward(losses[-1])
            if index == 3:
                loop.step()
    assert guard.last_report is not None
    assert guard.last_report.stats.loss == pytest.approx(sum(map(float, losses)))


def test_an_explosion_is_survived() -> None:
    model, _, guard = guarded("sgd", batches((20,), scale=1e6))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert guard.report().outcome == "recovered"


def test_the_files_are_those_of_a_trainer(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    _, _, guard = guarded("adamw", batches((20,)), logger=logger, log_every_n_steps=10)
    assert len(read_steps(Location(logger.log_dir) / "gradguard", "")) == 40
    assert (Path(logger.log_dir) / "incidents.jsonl").exists()
    assert guard.incidents[0].first_step == 20


def test_a_loop_ends_where_nothing_helps() -> None:
    guard, model = GradGuard(), net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with GuardedLoop(guard, model, optimizer) as loop:
        for x, _ in loop.batches([(torch.full((4, 8), math.nan), None)] * 200):
            loop.backward(model(x).sum())
            loop.step()
            if loop.should_stop:
                break
    assert loop.should_stop
    assert loop.global_step < 100
    assert guard.report().outcome == "unrecoverable"


def test_a_resumed_loop_goes_on_as_if_it_had_not_ended() -> None:
    data, guard, model = batches((20, 21)), GradGuard(), net()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    state = None
    for part in (data[:21], data[21:]):
        loop = GuardedLoop(guard, model, optimizer, total_steps=40)
        if state is not None:
            loop.load_state_dict(state)
        with loop:
            for x, y in loop.batches(part):
                loop.backward(nn.functional.cross_entropy(model(x), y))
                loop.step()
            state = loop.state_dict()
        last, guard = guard, GradGuard()
    expected, _, whole = guarded("adamw", data)
    assert same_state(model, expected)
    assert loop.global_step == last.report().steps == 40
    assert [(i.kind, i.steps, i.actions) for i in last.incidents] == [
        (i.kind, i.steps, i.actions) for i in whole.incidents
    ]


def test_an_exception_ends_the_loop_and_leaves_the_model_as_it_was() -> None:
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    loop = GuardedLoop(GradGuard(), model, optimizer)

    def train() -> None:
        with loop:
            for _ in loop.batches(batches()):
                raise KeyError

    with pytest.raises(KeyError):
        train()
    assert "automatic_optimization" not in vars(model)
    assert "step" not in vars(optimizer)
    with pytest.raises(RuntimeError, match="within its `with` block"):
        loop.step()


@pytest.mark.parametrize("settings", [{"total_steps": 0}, {"log_every_n_steps": 0}, {"guard": "protect"}])
def test_wrong_arguments_are_refused(settings: dict[str, Any]) -> None:
    model = net()
    given: dict[str, Any] = {"guard": GradGuard(), **settings}
    with pytest.raises(ValueError, match=f"GuardedLoop\\({next(iter(settings))}=...\\)"):
        GuardedLoop(given.pop("guard"), model, OPTIMIZERS["sgd"](model.parameters()), **given)


def test_repair_says_that_it_acts_like_protect() -> None:
    with pytest.warns(UserWarning, match="acts like 'protect' with manual optimization"):
        guarded("sgd", batches(), guard=GradGuard("repair"))
