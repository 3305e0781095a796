"""Beside Lightning's own callbacks and clipping: nobody is disturbed, and afterwards everything is the user's again."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import callbacks as builtin
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.tuner import Tuner
from runs import Capture, Faults, Net, fit, loader
from torch import nn

from lightning_gradguard import GradGuard
from lightning_gradguard.detectors import NonFinite
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.remedies import ReduceLR, SkipStep

#: Skips the step and reduces the learning rate at once.
HARSH = Policy({"nonfinite": [(ReduceLR(), SkipStep())]})


def harsh() -> GradGuard:
    return GradGuard(HARSH, [NonFinite()])


def hooks_of(optimizer: torch.optim.Optimizer) -> list[Any]:
    """What hangs on an optimizer's step and belongs to this package."""
    hung = (*optimizer._optimizer_step_pre_hooks.values(), *optimizer._optimizer_step_post_hooks.values())
    return [hook for hook in hung if "lightning_gradguard" in getattr(hook, "__module__", "")]


def test_trainer_clipping_comes_after_and_is_mentioned_once() -> None:
    guard, norms = GradGuard(), []

    class Net2(Net):
        def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
            before = float(torch.nn.utils.get_total_norm([p.grad for p in self.parameters()]))
            super().configure_gradient_clipping(optimizer, *args, **kwargs)
            norms.append((before, float(torch.nn.utils.get_total_norm([p.grad for p in self.parameters()]))))

    with pytest.warns(UserWarning, match="gradient_clip_val=0.01") as said:
        fit(Net2(), guard, gradient_clip_val=0.01, limit_train_batches=4)
    assert sum("gradient_clip_val" in str(w.message) for w in said) == 1
    assert all(before > 0.01 and after == pytest.approx(0.01, rel=1e-3) for before, after in norms)
    assert guard.last_report.stats.global_norm == pytest.approx(norms[-1][0], rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*clips after GradGuard")
def test_trainer_clipping_survives_a_skipped_step() -> None:
    guard, module = GradGuard(), Net()
    fit(module, Faults({2: math.nan}), guard, gradient_clip_val=0.5, limit_train_batches=5)
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_learning_rate_monitor_shows_the_users_schedule(tmp_path: Path) -> None:
    class Scheduled(Net):
        def configure_optimizers(self) -> Any:
            adam = torch.optim.Adam(self.parameters(), lr=0.01)
            schedule = torch.optim.lr_scheduler.ExponentialLR(adam, 0.9)
            return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    shown = []
    for callbacks in ([], [Faults({3: math.nan}), harsh()]):
        monitor = builtin.LearningRateMonitor("step")
        seen = Capture(lambda t, m, monitor=monitor: monitor.lrs["lr-Adam"][-1])
        fit(Scheduled(), *callbacks, monitor, seen, logger=CSVLogger(tmp_path), limit_train_batches=8,
            log_every_n_steps=1)  # fmt: skip
        shown.append(seen.seen)
    assert shown[0] == shown[1]
    assert len(set(shown[0])) == 8


class Checked(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def val_dataloader(self) -> Any:
        return loader(4, seed=1)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_checkpoint_and_early_stopping(tmp_path: Path) -> None:
    guard = GradGuard()
    kept = builtin.ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    stopping = builtin.EarlyStopping("val_loss", patience=1, min_delta=10.0)
    trainer = fit(
        Checked(), Faults({5: math.nan}), guard, kept, stopping, enable_checkpointing=True, max_epochs=9,
        limit_train_batches=10, limit_val_batches=2,
    )  # fmt: skip
    assert trainer.current_epoch == 2
    assert len(guard.incidents) == 1
    again = GradGuard()
    fit_again = pl.Trainer(
        accelerator="cpu", callbacks=[again], logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, max_epochs=3, limit_train_batches=10,
    )  # fmt: skip
    fit_again.fit(Checked(), loader(), ckpt_path=kept.last_model_path)
    assert [str(i) for i in again.incidents] == [str(i) for i in guard.incidents]


def test_averaging_callbacks_average_what_was_kept() -> None:
    for average in (builtin.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1), *ema()):
        guard, module = GradGuard(), Net(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(module, Faults({6: math.nan}), guard, average, max_epochs=4, limit_train_batches=5)
        assert [(f.kind, f.step) for f in guard.findings] == [("nonfinite", 6), ("bad_batch", 6)]
        assert all(torch.isfinite(p).all() for p in module.parameters())


def ema() -> tuple[Any, ...]:
    """Weight averaging came with Lightning 2.6."""
    return (builtin.WeightAveraging(),) if hasattr(builtin, "WeightAveraging") else ()


class Tunable(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lr, self.batch_size = 1e-3, 4

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(loader().dataset, self.batch_size)


@pytest.mark.parametrize("task", ["lr_find", "scale_batch_size"])
def test_tuners_run_without_the_guard_and_give_it_back(task: str, tmp_path: Path) -> None:
    guard, module = GradGuard(), Tunable()
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[guard], logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, max_epochs=1, limit_train_batches=20, default_root_dir=tmp_path,
    )  # fmt: skip
    options = {"num_training": 10} if task == "lr_find" else {"max_trials": 2, "steps_per_trial": 2}
    getattr(Tuner(trainer), task)(module, **options)
    assert guard in trainer.callbacks
    trainer.fit(module)
    assert guard.report().steps == 20


@pytest.mark.filterwarnings("ignore:`?.fit\\(ckpt_path=")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_afterwards_everything_is_the_users(error: type[BaseException], tmp_path: Path) -> None:
    class Breaking(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 7:
                raise error("on purpose")
            return super().training_step(batch, batch_idx)

    guard, module = harsh(), Breaking(optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    saving = builtin.OnExceptionCheckpoint(tmp_path)
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[Faults({3: math.nan}), guard, saving], logger=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, default_root_dir=tmp_path / "others",
    )  # fmt: skip
    with pytest.raises((error, SystemExit)):
        trainer.fit(module, loader())
    (optimizer,) = trainer.optimizers
    assert guard._engines[id(optimizer)].actor.lr_factor.factor < 1
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert hooks_of(optimizer) == []
    (saved,) = tmp_path.glob("*.ckpt")
    contents = torch.load(saved, weights_only=True)
    assert contents["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1
    assert [str(i) for i in pickle.loads(pickle.dumps(guard)).incidents] == [str(i) for i in guard.incidents]
    assert [str(i) for i in copy.deepcopy(guard).incidents] == [str(i) for i in guard.incidents]


def test_hooks_are_gone_after_a_fit() -> None:
    guard = harsh()
    trainer = fit(Net(), Faults({3: math.nan}), guard)
    assert hooks_of(trainer.optimizers[0]) == []
    assert not any(hook for m in trainer.lightning_module.modules() for hook in m._forward_hooks.values())


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_from_the_command_line_in_yaml(namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package, cli = importlib.import_module(namespace), importlib.import_module(f"{namespace}.cli")
    config = tmp_path / "wanted.yaml"
    config.write_text(
        """
trainer:
  accelerator: cpu
  max_steps: 4
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_gradguard.GradGuard
      init_args:
        policy: monitor
        clip:
          class_path: lightning_gradguard.remedies.AutoClip
          init_args: {percentile: 50}
"""
    )
    demo = importlib.import_module(f"{namespace}.demos.boring_classes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = cli.LightningCLI(demo.BoringModel, args=["fit", "--config", str(config)])
    (guard,) = [c for c in built.trainer.callbacks if isinstance(c, GradGuard)]
    assert isinstance(guard, package.Callback)
    assert guard.policy.name == "monitor"
    assert guard.clip is not None
    assert guard.report().steps == 4


def test_where_another_engine_owns_the_step_the_loss_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnsTheStep(pl.strategies.SingleDeviceStrategy):
        """DeepSpeed as far as the guard can tell."""

    monkeypatch.setattr(pl.strategies, "DeepSpeedStrategy", OwnsTheStep)
    guard, module = GradGuard(), Net()
    with pytest.warns(UserWarning, match="only watches the loss"):
        fit(module, Faults({4: math.nan}), guard, strategy=OwnsTheStep("cpu"), limit_train_batches=8)
    assert guard.findings[0].step == 4
    assert all(incident.actions == () for incident in guard.incidents)
    assert any(torch.isnan(p).any() for p in module.parameters())
