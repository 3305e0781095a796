"""Hugging Face's `Trainer`: what a guard does in it is what it does in a loop of your own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from runs import same_state
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from lightning_gradguard import GradGuard
from lightning_gradguard.alerts import RaiseOnUnrecoverable, StopRun, UnrecoverableError
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.step_log import read_steps
from lightning_gradguard.transformers import GradGuardCallback

STEPS = 30


def bert(dropout: float = 0.0) -> nn.Module:
    set_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16, num_labels=1, problem_type="regression", hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )  # fmt: skip


def gpt() -> nn.Module:
    set_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16))


def labelled(bad: tuple[int, ...] = (), left_out: bool = False, count: int = STEPS) -> list[dict[str, Any]]:
    """Batches of four sequences with a number each; in bad ones it is NaN."""
    generator = torch.Generator().manual_seed(0)
    data = []
    for step in range(count):
        ids = torch.randint(0, 50, (4, 8), generator=generator)
        y = ids.float().mean(1) / 50 + (math.nan if step in bad else 0.0)
        data += [] if step in bad and left_out else [{"input_ids": i, "labels": v} for i, v in zip(ids, y, strict=True)]
    return data


def texts() -> list[dict[str, Any]]:
    """Sequences whose padding makes micro-batches of unequal weight."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (4 * STEPS, 8), generator=generator)
    return [{"input_ids": i, "labels": torch.where(torch.arange(8) < n % 7 + 2, i, -100)} for n, i in enumerate(ids)]


class Seen(TrainerCallback):
    """What the Trainer logs."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(logs)


def trained(
    model: nn.Module, data: list[Any], folder: Path, guard: GradGuard | None = None, resume: str | None = None,
    logger: Any = None, also: Any = (), trainer: Any = Trainer, **settings: Any,
) -> Any:  # fmt: skip
    given = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "lr_scheduler_type": "constant",
        "learning_rate": 1e-2,
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
        **settings,
    }
    callbacks = [*also, *([GradGuardCallback(guard, logger)] if guard is not None else [])]
    run = trainer(model, TrainingArguments(str(folder), **given), train_dataset=data, callbacks=callbacks)
    run.train(resume_from_checkpoint=resume)
    return run


def moments(run: Any) -> list[Any]:
    return [state[key] for state in run.optimizer.state.values() for key in sorted(state)]


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 3}, {"bf16": True}, {"max_grad_norm": 0.0}])
def test_a_healthy_run_is_not_changed(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {"lr_scheduler_type": "linear", "num_train_epochs": 2, **settings}
    guard, seen, other = GradGuard(), Seen(), Seen()
    guarded = trained(bert(0.1), labelled(), tmp_path, guard, also=[seen], **settings)
    alone = trained(bert(0.1), labelled(), tmp_path, also=[other], **settings)
    assert same_state(guarded.model, alone.model)
    assert all(torch.equal(a, b) for a, b in zip(moments(guarded), moments(alone), strict=True))
    assert [log.get("grad_norm") for log in seen.logs] == [log.get("grad_norm") for log in other.logs]
    assert guard.incidents == ()
    assert guard.report().steps == guarded.state.global_step
    assert not guarded.model._forward_hooks
    assert not guarded.model._forward_pre_hooks


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_a_bad_batch_leaves_no_trace(optim: str, tmp_path: Path) -> None:
    guard = GradGuard()
    guarded = trained(bert(), labelled((20, 21)), tmp_path, guard, optim=optim)
    alone = trained(bert(), labelled((20, 21), left_out=True), tmp_path, optim=optim)
    assert same_state(guarded.model, alone.model)
    assert all(torch.equal(a, b) for a, b in zip(moments(guarded), moments(alone), strict=True))
    first = guard.incidents[0]
    assert (first.kind, first.steps, first.actions) == ("nonfinite", "20-21", ("SkipStep",))
    assert guard.report().outcome == "recovered"


@pytest.mark.parametrize(("model", "data"), [(gpt, texts), (bert, labelled)])
def test_accumulated_losses_and_norms_are_those_of_the_trainer(model: Any, data: Any, tmp_path: Path) -> None:
    guard, seen = GradGuard(), Seen()
    logger = CSVLogger(tmp_path)
    trained(model(), data(), tmp_path, guard, also=[seen], logger=logger, gradient_accumulation_steps=4)
    steps = read_steps(Location(logger.log_dir) / "gradguard", "")
    logs = [log for log in seen.logs if "grad_norm" in log]
    assert len(steps) == len(logs) == 8  # the last one of two batches
    for step, log in zip(steps, logs, strict=True):
        assert step.stats.loss == pytest.approx(log["loss"], rel=1e-4)
        assert step.stats.global_norm == pytest.approx(float(log["grad_norm"]), rel=1e-4)


def test_one_bad_micro_batch_skips_the_whole_step(tmp_path: Path) -> None:
    guard = GradGuard()
    run = trained(bert(), labelled((9,)), tmp_path, guard, gradient_accumulation_steps=2)
    assert guard.incidents[0].steps == "4"
    assert "micro-batch 2 of 2" in guard.incidents[0].message
    kept = [batch for step, batch in enumerate(labelled()) if step // 8 != 4]
    assert same_state(run.model, trained(bert(), kept, tmp_path, gradient_accumulation_steps=2).model)


def test_an_infinite_gradient_is_found_in_its_layer(tmp_path: Path) -> None:
    model, calls = bert(), []

    def break_one(grad: torch.Tensor) -> torch.Tensor:
        calls.append(0)
        return grad * math.inf if len(calls) == 11 else grad

    model.classifier.bias.register_hook(break_one)
    guard = GradGuard()
    trained(model, labelled(), tmp_path, guard)
    assert guard.incidents[0].layers == ("classifier",)
    assert guard.incidents[0].steps == "10"


def test_a_run_ends_where_nothing_helps(tmp_path: Path) -> None:
    guard = GradGuard()
    run = trained(bert(), labelled(tuple(range(5, 200)), count=200), tmp_path, guard)
    assert run.state.global_step < 100
    assert guard.report().outcome == "unrecoverable"
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())


def test_an_alert_ends_the_run(tmp_path: Path) -> None:
    guard = GradGuard(on_incident=StopRun(kinds=["nonfinite"]))
    assert trained(bert(), labelled((20,)), tmp_path, guard).state.global_step == 21
    guard = GradGuard(on_incident=RaiseOnUnrecoverable())
    with pytest.raises(UnrecoverableError):
        trained(bert(), labelled(tuple(range(5, 200)), count=200), tmp_path, guard)


@pytest.mark.parametrize("restored", [False, True])
def test_a_resumed_run_goes_on_as_if_it_had_not_ended(restored: bool, tmp_path: Path) -> None:
    data, settings = labelled((10, 20, 21)), {"save_strategy": "steps", "save_steps": 21}
    settings["restore_callback_states_from_checkpoint"] = restored
    whole = GradGuard()
    expected = trained(bert(0.1), data, tmp_path, whole, **settings)
    guard = GradGuard()
    resumed = trained(bert(0.1), data, tmp_path, guard, str(tmp_path / "checkpoint-21"), **settings)
    assert same_state(resumed.model, expected.model)
    assert [(i.kind, i.steps, i.actions) for i in guard.incidents] == [
        (i.kind, i.steps, i.actions) for i in whole.incidents
    ]
    assert guard.report().steps == STEPS
    saved = json.loads((tmp_path / "checkpoint-21" / "trainer_state.json").read_text(encoding="utf-8"))
    assert "GradGuard" in saved["stateful_callbacks"]


def test_a_callback_serves_several_runs_and_one_that_failed(tmp_path: Path) -> None:
    callback = GradGuardCallback(GradGuard())
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], save_strategy="no", num_train_epochs=1, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    broken = Trainer(bert(), arguments, train_dataset=[*labelled(count=4), {"nothing": 1}], callbacks=[callback])
    with pytest.raises((KeyError, ValueError, TypeError)):
        broken.train()
    run = Trainer(bert(), arguments, train_dataset=labelled(), callbacks=[callback])
    run.train()
    assert callback.guard.report().steps == run.state.global_step
    assert "step" not in vars(run.optimizer.optimizer)
    assert not broken.model._forward_hooks


class OwnLoss(Trainer):
    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return model(inputs["input_ids"]).logits.square().mean()


def test_a_loss_that_is_not_seen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="`loss` that the model returns, and step 0"):
        trained(bert(), labelled(), tmp_path, GradGuard(), trainer=OwnLoss)
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        trained(bert(), labelled(), tmp_path, GradGuard(), label_smoothing_factor=0.1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "DEEPSPEED"}, "DEEPSPEED"),
        ({"kind": "MULTI_GPU"}, "MULTI_GPU"),
        ({"n_gpu": 2}, "got 2"),
        ({"world_size": 3}, "got 3"),
        ({"scaler": object()}, "use bf16"),
        ({"fp16": True}, "use bf16"),
    ],
)
def test_what_a_guard_cannot_act_in_is_refused(change: dict[str, Any], told: str) -> None:
    values = {"n_gpu": 0, "world_size": 1, "fp16": False, "label_smoothing_factor": 0.0, "scaler": None, **change}
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value=values.pop("kind", "NO")))
    optimizer = SimpleNamespace(scaler=values.pop("scaler"), accelerator_state=accelerator)
    given = {"model": nn.Linear(1, 1), "optimizer": optimizer}
    with pytest.raises(ValueError, match=told):
        GradGuardCallback(GradGuard()).on_train_begin(SimpleNamespace(**values), None, None, **given)


def test_a_guard_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"GradGuardCallback\(guard=...\)"):
        GradGuardCallback("protect")  # type: ignore[arg-type]
