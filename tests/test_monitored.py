"""What other callbacks can monitor, and what the progress bar counts, in both namespaces."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as lp
import lightning.pytorch.demos.boring_classes as lp_boring
import pytest
import pytorch_lightning as pl
import pytorch_lightning.demos.boring_classes as pl_boring
import torch
from runs import Batches, Net, fit

from lightning_gradguard import GradGuard
from lightning_gradguard.record.report import OUTCOMES

BOTH = pytest.mark.parametrize(("lightning", "boring"), [(pl, pl_boring), (lp, lp_boring)], ids=["pl", "lp"])


def batches(nan_at: int | None = None) -> Batches:
    """An epoch of ten batches, one of which may be NaN."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(4, 32, generator=generator) for _ in range(10)]
    return Batches(batch * (math.nan if step == nan_at else 1) for step, batch in enumerate(drawn))


def quiet(**options: Any) -> dict[str, Any]:
    return dict(
        accelerator="cpu", logger=False, limit_val_batches=0, max_epochs=4, enable_progress_bar=False,
        enable_model_summary=False,
    ) | options  # fmt: skip


@BOTH
@pytest.mark.parametrize(("nan_at", "epochs"), [(None, 4), (3, 1)])
def test_early_stopping_monitors_incidents(lightning: Any, boring: Any, nan_at: Any, epochs: int) -> None:
    stopping = lightning.callbacks.EarlyStopping("gradguard/incidents", mode="max", stopping_threshold=0.5, patience=9)
    guard = GradGuard()
    trainer = lightning.Trainer(callbacks=[stopping, guard], enable_checkpointing=False, **quiet())
    trainer.fit(boring.BoringModel(), batches(nan_at))
    assert trainer.current_epoch == epochs
    assert trainer.callback_metrics["gradguard/incidents"] == len(guard.incidents)
    assert OUTCOMES[int(trainer.callback_metrics["gradguard/outcome"])] == guard.report().outcome


@BOTH
def test_model_checkpoint_keeps_the_step_with_the_smallest_gradient(lightning: Any, boring: Any, tmp_path: Any) -> None:
    norms: list[float] = []

    class Norms(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, *_: Any) -> None:
            norms.append(guard.last_report.stats.global_norm)  # type: ignore[union-attr]

    guard = GradGuard()
    keep = lightning.callbacks.ModelCheckpoint(
        tmp_path, "{step}", monitor="gradguard/grad_norm", mode="min", every_n_train_steps=1
    )
    lightning.Trainer(callbacks=[guard, Norms(), keep], **quiet()).fit(boring.BoringModel(), batches())
    assert float(keep.best_model_score) == pytest.approx(min(norms))
    assert Path(keep.best_model_path).stem == f"step={norms.index(min(norms)) + 1}"


def test_names_hold_the_guard_and_the_optimizer() -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            loss = self.net(batch[0]).square().mean()
            self.manual_backward(loss)
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.step()
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.zero_grad()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.net[0], self.net[-1])]

    metrics = fit(Two(), GradGuard(name="mine"), limit_train_batches=3).callback_metrics
    names = {"0/grad_norm", "1/grad_norm", "incidents", "outcome"}
    assert metrics.keys() == {f"gradguard/mine/{name}" for name in names}


@BOTH
@pytest.mark.parametrize("nan_at", [None, 3])
def test_the_progress_bar_counts_incidents_where_there_are_any(lightning: Any, boring: Any, nan_at: Any) -> None:
    bar = lightning.callbacks.ProgressBar()
    options = quiet(max_epochs=1, enable_progress_bar=True, enable_checkpointing=False)
    trainer = lightning.Trainer(callbacks=[bar, GradGuard()], **options)
    trainer.fit(boring.BoringModel(), batches(nan_at))
    shown = bar.get_metrics(trainer, trainer.lightning_module)
    assert {name: f"{count:.3f}" for name, count in shown.items()} == (
        {} if nan_at is None else {"gradguard/incidents": "1"}
    )
