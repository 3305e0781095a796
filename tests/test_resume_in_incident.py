"""A run resumed from a checkpoint inside an incident decides as if it had not been interrupted."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from runs import Capture, Net, loader, same_state
from torch import nn

from lightning_gradguard import GradGuard, Policy
from lightning_gradguard.detectors import NonFinite
from lightning_gradguard.remedies import AGC, AutoClip, ReduceLR, Rollback, SkipStep, ZClip
from lightning_gradguard.run_engine import RunContext, RunEngine

STEPS = 30  # of an epoch
BATCHES = list(loader(STEPS))


class Steady(Net):
    """Its batches depend on epoch and step alone: Lightning restarts a loader within an epoch at its first batch."""

    def __init__(self, nans: Any) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.nans = nans

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = BATCHES[batch_idx]
        x = x * math.nan if self.trainer.current_epoch * STEPS + batch_idx in self.nans else x
        return nn.functional.cross_entropy(self.net(x), y)


def run(folder: Path, nans: Any, guard: GradGuard, ckpt_path: Any = None, every: int = 1) -> tuple[Net, list[Any]]:
    """The module, and what was done at every step."""
    module = Steady(nans)
    done = Capture(lambda t, m: (guard.last_report.stats.step, guard.last_report.actions, guard.last_report.outcome))
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, callbacks=[saving, guard, done], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader(STEPS), ckpt_path=ckpt_path)
    return module, done.seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Net, list[Any]]:
    """NaN from step 40 to 51, then twice more: rollbacks from older and older snapshots."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *run(folder, {*range(40, 52), 70, 72}, GradGuard(), every=2)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize("step", [20, 42, 44, 46, 48, 50, 52, 54, 72, 74])
def test_the_resumed_run_is_the_rest_of_the_uninterrupted_one(step: int, whole: Any, tmp_path: Path) -> None:
    folder, module, done = whole
    assert any(action.name == "Rollback" for _, actions, _ in done for action in actions)
    resumed, rest = run(tmp_path, {*range(40, 52), 70, 72}, GradGuard(), folder / f"step={step}.ckpt", every=2)
    assert rest == done[step:]
    assert same_state(resumed, module)


def test_only_checkpoints_within_an_incident_have_snapshots(whole: Any) -> None:
    def snapshots(step: int) -> Any:
        checkpoint = torch.load(whole[0] / f"step={step}.ckpt", weights_only=True)
        return checkpoint["callbacks"]["GradGuard"]["engines"][""]["snapshots"]

    assert snapshots(20) is None
    assert [entry["step"] for entry in snapshots(46)["ring"]]


# -------------------------------------------------------------------- states that do not fit


POLICY = Policy({"nonfinite": [SkipStep(), Rollback()]})


def engine(width: int = 4, **settings: Any) -> RunEngine:
    torch.manual_seed(0)
    net = nn.Linear(3, width)
    context = {"detectors": [NonFinite()], "policy": POLICY, "clip": ZClip(), **settings}
    return RunEngine(RunContext(module=net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), **context))


def advance(engine: RunEngine, *factors: float) -> list[str]:
    """A step for each factor of the batch; what was done in the last."""
    for factor in factors:
        engine.begin_batch()
        loss = engine.module(torch.ones(2, 3) * factor).square().mean()
        loss.backward()
        report = engine.before_step([loss])
        engine.optimizer.step()
        engine.optimizer.zero_grad()
    return [action.name for action in report.actions]


def state_in_incident() -> dict[str, Any]:
    source = engine()
    advance(source, 1, 1, 1, math.nan)
    return source.state_dict()


def told(target: RunEngine, state: dict[str, Any]) -> list[str]:
    """The warnings when a state is loaded."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target.load_state_dict(state)
    return [str(warning.message) for warning in caught]


def test_a_state_that_fits_is_loaded_without_a_word() -> None:
    target = engine()
    assert told(target, state_in_incident()) == []
    assert advance(target, math.nan) == ["Rollback"]


@pytest.mark.parametrize("part", sorted(state_in_incident()))
def test_without_a_part_it_is_reset_with_a_warning(part: str) -> None:
    state = state_in_incident()
    del state[part]
    target = engine()
    (message,) = told(target, state)
    assert f"starts with an empty {part!r}" in message
    advance(target, math.nan, 1)


@pytest.mark.parametrize("part", sorted(state_in_incident()["actor"]))
def test_without_a_part_of_the_actor_the_rest_is_loaded(part: str) -> None:
    state, target = state_in_incident(), engine()
    state["actor"]["lr_factor"]["factor"] = 0.5
    del state["actor"][part]
    (message,) = told(target, state)
    assert f"starts with an empty {part!r}" in message
    assert target.actor.lr_factor.factor == (1.0 if part == "lr_factor" else 0.5)
    advance(target, math.nan, 1)


def test_a_detector_whose_state_lacks_something_is_reset() -> None:
    state, target = state_in_incident(), engine()
    del state["detectors"]["loss_trend"]["block"]
    (message,) = [m for m in told(target, state) if "loss_trend" in m]
    assert message == "GradGuard resets the detector 'loss_trend': its state in the checkpoint has no block."
    advance(target, 1)


@pytest.mark.parametrize("clip", [AutoClip(), AGC()])
def test_the_state_of_another_clip_is_not_taken(clip: Any) -> None:
    target = engine(clip=clip)
    (message,) = told(target, state_in_incident())
    assert message.startswith("GradGuard starts with an empty 'clip'")
    assert f"it is of ZClip, the run has {type(clip).__name__}" in message
    assert target.actor.clip_state == clip.init()
    advance(target, 1)


def test_another_policy_begins_at_its_first_rung() -> None:
    target = engine(policy=Policy({"nonfinite": [ReduceLR(), SkipStep(), Rollback()]}))
    (message,) = told(target, state_in_incident())
    assert message.startswith(
        "GradGuard starts at the first rung for nonfinite: their ladders are not those of the run"
    )
    assert advance(target, math.nan) == ["ReduceLR"]


def test_a_policy_without_rollbacks_takes_no_snapshots() -> None:
    target = engine(policy=Policy({"nonfinite": [SkipStep()]}))
    told(target, state_in_incident())
    assert target.actor.snapshots.ring == []


def test_snapshots_of_another_model_are_not_taken() -> None:
    target = engine(width=5)
    (message,) = told(target, state_in_incident())
    assert "empty 'snapshots'" in message
    assert "weights of other shapes" in message
    assert advance(target, math.nan) == ["Rollback"]  # which finds none, and skips the step


def test_saved_snapshots_are_not_overwritten_by_later_ones() -> None:
    source = engine(snapshot_every=1, snapshots=1)
    advance(source, 1, math.nan)
    state = source.state_dict()
    before = copy.deepcopy(state["snapshots"])
    advance(source, 1, 1)
    assert torch.equal(before["ring"][0]["params"][0], state["snapshots"]["ring"][0]["params"][0])


def test_another_number_of_optimizers_is_said() -> None:
    guard = GradGuard()
    guard._engines = {0: engine(clip=None)}
    with pytest.warns(UserWarning, match="has GradGuard's state for 2 optimizers, the run has 1"):
        guard._load_engines({"0": {}, "1": {}})


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("part", ["engines", "incidents", "changes"])
def test_a_guards_state_without_a_part_is_no_error(part: str, tmp_path: Path) -> None:
    guard = GradGuard()
    run(tmp_path, {3}, guard, every=30)
    path = tmp_path / "step=60.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["callbacks"]["GradGuard"][part]
    torch.save(checkpoint, path)
    with pytest.warns(UserWarning, match=f"starts with an empty '{part}'"):
        run(tmp_path, set(), GradGuard(), path, every=30)
