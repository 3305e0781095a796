"""The callback in real Trainers."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as lp
import pytest
import pytorch_lightning as pl
import torch
from runs import Batches, Faults, Net, files, fit, loader, same_state
from torch import nn

from lightning_gradguard import MONITOR, GradGuard, GradStats, Policy
from lightning_gradguard.detectors import DETECTORS, AbstractDetector, Exploding, NonFinite
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies import AGC, AbstractRemedy, AutoClip, SkipStep, ZClip
from lightning_gradguard.step.pending_step import PendingStep


def trained(*callbacks: Any, seed: int = 0, **options: Any) -> Net:
    pl.seed_everything(seed, verbose=False)
    module = Net(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)))
    fit(module, *callbacks, **{"max_epochs": 3, **options})
    return module


@pytest.mark.parametrize("policy", ["monitor", "protect", "repair"])
def test_a_healthy_run_is_bit_identical_with_and_without(policy: Any) -> None:
    guard = GradGuard(policy)
    assert same_state(trained(guard), trained())
    assert guard.incidents == ()
    assert str(guard.report()) == "GradGuard: 120 steps, no incident."


def test_monitor_never_touches_a_sick_run() -> None:
    faults = {20: torch.nan}
    guard = GradGuard("monitor")
    assert same_state(trained(Faults(faults), guard), trained(Faults(faults)))
    assert guard.findings[0].kind == "nonfinite"
    assert all(incident.actions == () for incident in guard.incidents)


def test_a_nan_batch_is_as_if_it_had_not_been() -> None:
    """Against a run whose data never held the batch: same weights, same buffers."""
    data = list(loader())
    poisoned = [*data[:7], [data[7][0] * torch.nan, data[7][1]], *data[8:]]
    pl.seed_everything(0, verbose=False)
    guarded, guard = Net(), GradGuard()
    clean = copy.deepcopy(guarded)
    fit(guarded, guard, data=Batches(poisoned))
    fit(clean, data=Batches([*data[:7], *data[8:]]))
    assert same_state(guarded, clean)
    (incident,) = [i for i in guard.incidents if i.kind == "nonfinite"]
    assert str(incident).endswith("; SkipStep; resolved")
    assert (incident.first_step, incident.last_step, incident.actions, incident.outcome) == (
        7,
        7,
        ("SkipStep",),
        "resolved",
    )


def test_lr_times_thousand_is_met_before_the_step() -> None:
    class Slip(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 60:
                trainer.optimizers[0].param_groups[0]["lr"] *= 1000

    guard = GradGuard()
    assert same_state(trained(Slip(), guard), trained())
    assert [i.kind for i in guard.incidents] == ["lr_jump"]


def test_corrupted_weights_are_rolled_back() -> None:
    class Flip(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 90:
                with torch.no_grad():
                    pl_module.net[0].weight.mul_(1e4)
                    pl_module.net[-1].weight.mul_(1e4)

    guard = GradGuard(snapshot_every=10)
    module = trained(Flip(), guard)
    assert any("Rollback" in incident.actions for incident in guard.incidents)
    assert guard.report().outcome == "recovered", guard.report()
    assert all(p.abs().max() < 10 for p in module.parameters())


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nan_for_ever_ends_in_an_honest_stop() -> None:
    guard = GradGuard()
    module = trained(Faults(dict.fromkeys(range(30, 1000), torch.nan)), guard, max_epochs=10)
    report = guard.report()
    assert report.outcome == "unrecoverable"
    assert "unrecoverable" in str(report)
    assert report.steps < 120
    assert all(bool(torch.isfinite(v).all()) for v in module.state_dict().values())


def test_accumulation_sees_every_micro_batch() -> None:
    guard = GradGuard()
    module = trained(Faults({10: torch.nan}), guard, accumulate_grad_batches=3, max_epochs=3)
    assert [(f.kind, f.step) for f in guard.findings] == [("nonfinite", 10), ("bad_batch", 10)]
    assert all(bool(torch.isfinite(v).all()) for v in module.state_dict().values())


class Nothing(Net):
    """Logs nothing and returns None now and then."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 3 == 0 else nn.functional.cross_entropy(self.net(batch[0]), batch[1])


class Untrainable(Net):
    """Has no trainable parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return torch.zeros((), requires_grad=True) + self.net(batch[0]).sum()


class NoOptimizer(Untrainable):
    def configure_optimizers(self) -> Any:
        return None


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
@pytest.mark.parametrize(("module", "kinds"), [(Nothing, []), (Untrainable, ["stalled"]), (NoOptimizer, [])])
def test_odd_modules_do_not_crash_the_guard(module: Any, kinds: list[str]) -> None:
    guard = GradGuard()
    fit(module(), guard)
    assert [(incident.kind, incident.actions) for incident in guard.incidents] == [(kind, ()) for kind in kinds]


@pytest.mark.parametrize("clip", [AGC()])
def test_clipping_every_step_is_no_incident(clip: Any) -> None:
    guard = GradGuard(clip=clip)
    assert not same_state(trained(guard), trained())
    assert guard.incidents == ()


# -------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(policy="protekt"), r"`GradGuard\(policy=...\)` must be one of .*'protect'.* or a Policy, got 'protekt'"),
        (
            dict(policy=Policy({"explode": [SkipStep()]})),
            r"names 'explode', but no detector reports it; they report: .*exploding",
        ),
        (dict(detectors=[Exploding(), Exploding(factor=50)]), r"must have different names, got 'exploding' twice"),
        (dict(detectors=[Exploding(name="loss_trend")]), r"must have different names, got 'loss_trend' twice"),
        (dict(snapshot_every=0), r"`GradGuard\(snapshot_every=...\)` must be a whole number of at least 1, got 0"),
        (dict(detectors=["exploding"]), r"`GradGuard\(detectors=...\)` must hold detectors, got 'exploding'"),
    ],
)
def test_bad_arguments_are_refused_at_construction(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradGuard(**options)


def test_two_detectors_of_one_kind_and_a_policy_of_ones_own() -> None:
    detectors = [NonFinite(), Exploding(), Exploding(factor=50, name="strict")]
    guard = GradGuard(Policy({"nonfinite": [SkipStep()]}), detectors)
    trained(Faults({20: torch.nan}), guard)
    assert [i.actions for i in guard.incidents] == [("SkipStep",)]


def test_a_subset_of_detectors_works_with_the_presets() -> None:
    guard = GradGuard("protect", [NonFinite()])
    trained(Faults({20: torch.nan}), guard)
    assert guard.incidents[0].actions == ("SkipStep",)


# -------------------------------------------------------------------- both namespaces


@pytest.mark.parametrize("trainer_class", [pl.Trainer, lp.Trainer], ids=["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("alone", [True, False])
def test_at_home_in_both_namespaces(trainer_class: Any, alone: bool, tmp_path: Path) -> None:
    base = lp.LightningModule if trainer_class is lp.Trainer else pl.LightningModule

    class Module(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    guard = GradGuard()
    trainer = trainer_class(
        callbacks=guard if alone else [guard], max_epochs=1, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), Batches([x * torch.nan, y] if i == 3 else [x, y] for i, (x, y) in enumerate(loader())))
    assert [i.first_step for i in guard.incidents] == [3]


# -------------------------------------------------------------------- state


def test_pickles_and_copies_after_a_fit() -> None:
    guard = GradGuard()
    trained(Faults({20: torch.nan}), guard)
    for again in (pickle.loads(pickle.dumps(guard)), copy.deepcopy(guard)):
        assert [str(i) for i in again.incidents] == [str(i) for i in guard.incidents]
        trained(again)


def test_a_guard_whose_copies_train_shows_the_run_that_began_last() -> None:
    guard = GradGuard()
    first, second = copy.deepcopy(guard), copy.deepcopy(guard)
    trained(Faults({20: torch.nan}), first)
    assert guard.incidents == first.incidents
    assert guard.findings == first.findings
    assert str(guard.report()) == str(first.report())
    assert guard.last_report is first.last_report
    assert len(guard.incidents) == 1
    trained(copy.deepcopy(second))
    assert (guard.incidents, second.incidents, len(first.incidents)) == ((), (), 1)
    assert guard.report().steps == 120


def test_a_copy_in_another_process_has_a_record_of_its_own() -> None:
    guard = GradGuard()
    trained(Faults({20: torch.nan}), pickle.loads(pickle.dumps(guard)))
    assert guard.incidents == ()


def test_a_second_fit_starts_over() -> None:
    guard = GradGuard()
    trained(Faults({20: torch.nan}), guard)
    trained(guard)
    assert guard.incidents == ()


def test_hooks_and_learning_rate_are_the_users_after_an_exception() -> None:
    class Boom(pl.Callback):
        def on_before_zero_grad(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 70:
                raise RuntimeError("boom")

    module, guard = Net(), GradGuard()
    guard_seen: list[Any] = []

    class Cut(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            guard_seen[:] = [trainer.optimizers[0]]
            for engine in guard._engines.values():
                engine.actor.lr_factor.factor = 0.1

    with pytest.raises(RuntimeError, match="boom"):
        fit(module, guard, Cut(), Boom(), max_epochs=3)
    (optimizer,) = guard_seen
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_state_is_plain_and_versioned(tmp_path: Path) -> None:
    guard = GradGuard(name="mine")
    trainer = fit(Net(), Faults({20: torch.nan}), guard, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    state = checkpoint["callbacks"][guard.state_key]
    assert state["version"] == 2
    assert guard.state_key == GradGuard("monitor", name="mine").state_key
    assert math.isfinite(state["engines"][""]["actor"]["lr_factor"]["factor"])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_checkpoint_without_guard_and_a_guard_without_checkpoint(tmp_path: Path) -> None:
    fit(Net(), max_epochs=1).save_checkpoint(tmp_path / "plain.ckpt")
    fit(Net(), GradGuard(), max_epochs=1).save_checkpoint(tmp_path / "guarded.ckpt")
    fit(Net(), GradGuard(), max_epochs=2)
    for name, callbacks in (("plain", [GradGuard()]), ("guarded", [])):
        trainer = pl.Trainer(
            max_epochs=2, callbacks=callbacks, logger=False, enable_progress_bar=False, enable_checkpointing=False,
            accelerator="cpu",
        )  # fmt: skip
        trainer.fit(Net(), loader(), ckpt_path=tmp_path / f"{name}.ckpt")
        assert trainer.current_epoch == 2


def test_an_unknown_state_version_is_said_and_ignored() -> None:
    guard = GradGuard()
    with pytest.warns(UserWarning, match="version 99"):
        guard.load_state_dict({"version": 99})


# -------------------------------------------------------------------- record


def test_the_incident_log_is_json_lines(tmp_path: Path) -> None:
    fit(Net(), Faults({20: torch.nan}), GradGuard(), logger=files(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "incidents.jsonl").read_text().splitlines()]
    told = [(line["kind"], line["outcome"]) for line in lines]
    assert told == [("nonfinite", "open"), ("nonfinite", "resolved")]
    assert [symptom["kind"] for symptom in lines[-1]["symptoms"]] == ["bad_batch"]


@pytest.mark.parametrize("root", [None, "runs"])
def test_without_a_logger_no_file_is_left(root: str | None, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    fit(Net(), Faults({20: torch.nan}), GradGuard(), default_root_dir=root, enable_checkpointing=root is not None)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".ckpt"] * (root is not None)


def test_monitor_preset_is_exported() -> None:
    assert GradGuard(MONITOR).policy is MONITOR


def test_old_incidents_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gradguard.callback.FINDINGS_KEPT", 2)
    guard = GradGuard(detectors=[NonFinite()], policy=Policy({"nonfinite": [SkipStep()]}, patience=1))
    fit(Net(), Faults({5: math.nan, 12: math.nan, 19: math.nan, 26: math.nan}), guard)
    assert [incident.first_step for incident in guard.incidents] == [19, 26]
    assert len(guard.findings) == 2


# -------------------------------------------------------------------- arguments and copies


@pytest.mark.parametrize("field", ["sample_every", "snapshot_every", "snapshots"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, 2.5, True, "3", 0, -1])
def test_counts_are_positive_whole_numbers(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`GradGuard\({field}=...\)` must be a whole number of at least 1"):
        GradGuard(**{field: value})


@pytest.mark.parametrize("clip", ["x", 1.0, True, ZClip])
def test_a_clip_is_a_clip(clip: Any) -> None:
    with pytest.raises(ValueError, match=r"`GradGuard\(clip=...\)` must be a clip such as ZClip\(\), got"):
        GradGuard(clip=clip)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ZClip(decay=2.0),
        lambda: ZClip(z=math.nan),
        lambda: ZClip(warmup=True),
        lambda: AutoClip(window=0),
        lambda: AutoClip(percentile=None),  # type: ignore[arg-type]
        lambda: AGC(eps="small"),  # type: ignore[arg-type]
    ],
)
def test_clips_check_their_numbers(make: Any) -> None:
    with pytest.raises(ValueError, match="must be a"):
        make()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda guard: pickle.loads(pickle.dumps(guard))])
def test_a_copied_monitor_touches_nothing(copied: Any) -> None:
    modules = []
    for callbacks in ([], [copied(GradGuard("monitor", clip=AGC(1e-3)))]):
        pl.seed_everything(0, verbose=False)
        modules.append(Net())
        fit(modules[-1], *callbacks)
    assert same_state(*modules)


def test_the_guard_is_one_line() -> None:
    assert repr(GradGuard()) == f"GradGuard(policy='protect', {len(DETECTORS)} detectors, clip=None)"
    assert GradGuard().last_report is None


# -------------------------------------------------------------------- parts that fail, and what they report


@dataclass(frozen=True)
class Raises(AbstractDetector):
    """A detector that raises from its fifth step on."""

    kind: ClassVar[str] = "raises"
    name: str = "raises"

    def init(self) -> dict[str, Any]:
        return {}

    def update(self, state: dict[str, Any], stats: GradStats) -> tuple[dict[str, Any], tuple[Finding, ...]]:
        if stats.step >= 5:
            raise RuntimeError("out of order")
        return state, ()


@dataclass(frozen=True)
class RaisingRemedy(AbstractRemedy):
    """A remedy that raises."""

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        raise RuntimeError("out of order")


@dataclass(frozen=True)
class AddNoise(AbstractRemedy):
    """Noise on the gradients, without a look at whether there are any."""

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        for grad in step.grads:
            grad.add_(torch.randn_like(grad), alpha=0.01)
        return self.did("added noise to the gradients")


@dataclass(frozen=True)
class GiveUp(AbstractRemedy):
    """A stop under another name."""

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        step.stop("enough")
        return self.did("gave up")


@dataclass(frozen=True)
class NamedStop(AbstractRemedy):
    """Skips the step, under the name of another remedy."""

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        step.cancel()
        return self.did("skipped the step")

    @property
    def name(self) -> str:
        return "Stop"


def test_a_detector_that_raises_is_switched_off_and_the_run_goes_on() -> None:
    guard = GradGuard(detectors=[Raises(), *DETECTORS])
    with pytest.warns(UserWarning, match=r"switches the detector Raises\(name='raises'\) off.*out of order") as told:
        fit(Net(), Faults({20: math.nan}), guard)
    assert len([w for w in told if "switches" in str(w.message)]) == 1
    assert guard.report().steps == 40
    assert [incident.kind for incident in guard.incidents] == ["nonfinite"]


def test_a_remedy_that_raises_is_switched_off_and_the_others_go_on() -> None:
    guard = GradGuard(Policy({"nonfinite": [(RaisingRemedy(), SkipStep())]}))
    with pytest.warns(UserWarning, match=r"switches the remedy RaisingRemedy\(\) off") as told:
        fit(Net(), Faults({10: math.nan, 20: math.nan}), guard)
    assert len([w for w in told if "switches" in str(w.message)]) == 1
    assert [i.actions for i in guard.incidents if i.kind == "nonfinite"] == [("SkipStep",), ("SkipStep",)]


def test_work_on_the_gradients_of_a_skipped_step_is_not_reported() -> None:
    guard = GradGuard(Policy({"nonfinite": [(SkipStep(), AddNoise())]}))
    fit(Net(), Faults({10: math.nan}), guard)
    assert [i.actions for i in guard.incidents if i.kind == "nonfinite"] == [("SkipStep",)]


@pytest.mark.parametrize(("remedy", "outcome"), [(GiveUp(), "unrecoverable"), (NamedStop(), "resolved")])
def test_unrecoverable_follows_from_the_stop_not_from_a_name(remedy: AbstractRemedy, outcome: str) -> None:
    guard = GradGuard(Policy({"nonfinite": [remedy]}))
    fit(Net(), Faults({10: math.nan}), guard)
    assert [i.outcome for i in guard.incidents if i.kind == "nonfinite"] == [outcome]


def test_a_remedy_of_the_last_release_may_return_text() -> None:
    @dataclass(frozen=True)
    class Old(AbstractRemedy):
        def apply(self, finding: Finding, step: PendingStep) -> str:  # type: ignore[override]
            step.cancel()
            return "skipped"

    guard = GradGuard(Policy({"nonfinite": [Old()]}))
    with pytest.warns(DeprecationWarning, match=r"return `self.did\(...\)` or None"):
        fit(Net(), Faults({10: math.nan}), guard)
    assert [i.actions for i in guard.incidents if i.kind == "nonfinite"] == [("Old",)]
