"""Every remedy in every loop and precision: exact, on the optimizer it is meant for, and the same after a resume.

A detector of the tests speaks at fixed steps, so that what is tested is the acting and not the judging.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning
from runs import Batches, Net, loader
from test_loops import GAN, Complex, Empty, Frozen, LoRA, Sparse, Tied, Tuned, Unused
from test_precision import PRECISIONS, Plain
from torch import Tensor, nn

from lightning_gradguard import GradGuard, GradStats
from lightning_gradguard.detectors import AbstractDetector
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.remedies import AdaptiveClip, ReduceLR, Rollback, SkipStep

SKIPPED, CLIPPED, REDUCED, ROLLED_BACK, STEPS, SAVED = 3, 5, 7, 10, 13, 6
SNAPSHOT = 8  # the last one before the rollback


@dataclass(frozen=True)
class At(AbstractDetector):
    """Reports its kind at one step, with a limit of half the norm."""

    kind: ClassVar[str] = "due"
    step: int = 0
    name: str = ""

    def init(self) -> dict[str, Any]:
        return {}

    def update(self, state: dict[str, Any], stats: GradStats) -> tuple[dict[str, Any], tuple[Finding, ...]]:
        due = stats.step == self.step
        limit = 0.5 * stats.global_norm
        return state, (Finding(self.kind, stats.step, (), stats.global_norm, limit),) if due else ()


def at(kind: str, step: int) -> AbstractDetector:
    return type(f"At{step}", (At,), {"kind": kind})(step=step, name=kind)


def scheduled_guard() -> GradGuard:
    detectors = [at("skip", SKIPPED), at("clip", CLIPPED), at("lr", REDUCED), at("rollback", ROLLED_BACK)]
    ladders = {"skip": [SkipStep()], "clip": [AdaptiveClip()], "lr": [ReduceLR()], "rollback": [Rollback()]}
    return GradGuard(Policy(ladders), detectors, snapshot_every=4, sample_every=5)


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
        optimizer.step()


class Closure(Manual):
    """Manual optimization with the closure handed to the optimizer."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)


def quasi_newton() -> Net:
    return Net(nn.Sequential(nn.Linear(8, 3)), lambda params: torch.optim.LBFGS(params, lr=0.1, max_iter=1))


#: Name of a row in docs/support.md -> module and Trainer arguments.
CELLS: dict[str, Any] = {
    "automatic": lambda: (Net(), {}),
    "accumulation": lambda: (Net(), {"accumulate_grad_batches": 2}),
    "manual": lambda: (Manual(), {}),
    "closure": lambda: (Closure(), {}),
    "several optimizers": lambda: (GAN(), {}),
    "LBFGS": lambda: (quasi_newton(), {}),
    "added groups": lambda: (Tuned(), {"callbacks": [unfreezing()]}),
    "frozen": lambda: (Frozen(), {}),
    "unused": lambda: (Unused(), {}),
    "tied": lambda: (Tied(), {}),
    "sparse": lambda: (Sparse(), {}),
    "complex": lambda: (Complex(), {}),
    "empty": lambda: (Empty(), {}),
    "LoRA": lambda: (LoRA(), {}),
    "compiled part": lambda: (compiled(), {}),
    **{name: (lambda make=make: (Plain(), make())) for name, make in PRECISIONS.items()},
    "16-mixed, fused": lambda: (Plain(fused=True), PRECISIONS["16-mixed"]()),
    "bf16-mixed, fused": lambda: (Plain(fused=True), PRECISIONS["bf16-mixed"]()),
    "32-true, fused": lambda: (Plain(fused=True), PRECISIONS["32-true"]()),
}


def unfreezing() -> BackboneFinetuning:
    return BackboneFinetuning(0, lambda epoch: 1.0, backbone_initial_ratio_lr=1.0, initial_denom_lr=1.0)


def compiled() -> Net:
    module = Net()
    module.net = torch.compile(module.net, backend="eager")
    return module


class Diary(pl.Callback):
    """For each optimizer step: weights and state before, the gradients that the optimizer gets, and the report."""

    def __init__(self, guard: GradGuard, saved: Path | None) -> None:
        self.guard, self.saved = guard, saved
        self.before: dict[str, list[Any]] = {}
        self.norms: dict[str, list[float]] = {}
        self.reports: dict[str, list[Any]] = {}
        acting = guard.on_before_optimizer_step

        def kept(trainer: Any, module: Any, optimizer: Any) -> None:
            name = guard._engines[id(optimizer)].name
            self.before.setdefault(name, []).append(state_of(optimizer))
            acting(trainer, module, optimizer)
            self.reports.setdefault(name, []).append(guard.last_report)
            grads = [p.grad for p in params_of(optimizer) if p.grad is not None]
            squares = [g.to_dense().abs().double().square().sum() for g in grads]
            scale = guard._engines[id(optimizer)].source.collector.grad_scale
            if scale == 1.0 and getattr(optimizer, "grad_scale", None) is not None:
                scale = float(optimizer.grad_scale)  # a fused optimizer divides by it while it steps
            self.norms.setdefault(name, []).append(float(sum(squares, torch.zeros(()))) ** 0.5 / scale)

        guard.on_before_optimizer_step = kept

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        torch.manual_seed(trainer.global_step)  # so that a resumed GAN draws the same noise

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        per_batch = len(trainer.optimizers)
        if self.saved is not None and trainer.global_step == SAVED * per_batch and not self.saved.exists():
            trainer.save_checkpoint(self.saved)


def params_of(optimizer: Any) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def state_of(optimizer: Any) -> list[Tensor]:
    state = [optimizer.state[p] for p in params_of(optimizer) if p in optimizer.state]
    tensors = [v for entry in state for v in entry.values() if isinstance(v, Tensor)]
    return [t.detach().clone() for t in (*params_of(optimizer), *tensors)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def run(cell: str, saved: Path | None = None, ckpt: Path | None = None) -> Diary:
    torch.manual_seed(0)
    module, options = CELLS[cell]()
    guard = scheduled_guard()
    diary = Diary(guard, saved)
    batches = STEPS * options.get("accumulate_grad_batches", 1)
    callbacks = [*options.pop("callbacks", ()), guard, diary]
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=callbacks, logger=False, enable_progress_bar=False, max_epochs=1,
        enable_checkpointing=False, enable_model_summary=False, **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, Batches(list(loader(1)) * batches), ckpt_path=ckpt)
    diary.users_lrs = {group["lr"] for o in trainer.optimizers for group in o.param_groups}
    return diary


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each cell is run once, and once more from its checkpoint."""
    known: dict[str, tuple[Diary, Diary]] = {}

    def tell(cell: str) -> tuple[Diary, Diary]:
        if cell not in known:
            saved = tmp_path_factory.mktemp("cell") / "saved.ckpt"
            known[cell] = run(cell, saved), run(cell, ckpt=saved)
        return known[cell]

    return tell


@pytest.fixture(params=CELLS)
def diary(request: pytest.FixtureRequest, told: Any) -> Diary:
    return told(request.param)[0]


def test_statistics(diary: Diary) -> None:
    for name, reports in diary.reports.items():
        assert len(reports) == STEPS
        for step, (report, norm) in enumerate(zip(reports, diary.norms[name], strict=True)):
            if step not in (SKIPPED, CLIPPED, ROLLED_BACK):  # there the gradients were changed
                assert report.stats.global_norm == pytest.approx(norm, rel=1e-5)
            assert report.stats.loss is not None
            assert math.isfinite(report.stats.loss)


def test_clip(diary: Diary) -> None:
    for name, reports in diary.reports.items():
        half = 0.5 * reports[CLIPPED].stats.global_norm
        assert diary.norms[name][CLIPPED] == pytest.approx(half, rel=1e-2)


def test_skip(diary: Diary) -> None:
    for before in diary.before.values():
        assert same(before[SKIPPED], before[SKIPPED + 1])
        assert not same(before[SKIPPED + 1], before[SKIPPED + 2])


def test_learning_rate(diary: Diary) -> None:
    for reports in diary.reports.values():
        assert [r.outcome.lr_factor for r in reports] == [1.0] * REDUCED + [0.1] * (STEPS - REDUCED)
        assert reports[REDUCED].stats.lr == pytest.approx(10 * reports[REDUCED + 1].stats.lr)
        assert {r.stats.lr for r in reports[:REDUCED]} == diary.users_lrs


def test_rollback(diary: Diary) -> None:
    for name, before in diary.before.items():
        assert diary.reports[name][ROLLED_BACK].actions == (Action("Rollback", f"rolled back to step {SNAPSHOT}"),)
        assert same(before[SNAPSHOT], before[ROLLED_BACK + 1])
        assert not same(before[ROLLED_BACK], before[ROLLED_BACK + 1])


# After a resume within an epoch, Lightning's BackboneFinetuning leaves the backbone frozen.
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "added groups"])
def test_resume(cell: str, told: Any) -> None:
    whole, resumed = told(cell)
    # Lightning reads a checkpoint's float64 weights into a float32 module, and makes that double afterwards.
    off = 1e-6 if cell == "64-true" else 0.0
    for name, reports in whole.reports.items():
        for one, other in zip(reports[SAVED:], resumed.reports[name], strict=True):
            assert one.stats.step == other.stats.step
            assert other.stats.grad_norm.tolist() == pytest.approx(one.stats.grad_norm.tolist(), rel=off)
            assert other.stats.loss == pytest.approx(one.stats.loss, rel=off)
            assert [f.kind for f in one.findings] == [f.kind for f in other.findings]
            assert (one.outcome.cancelled, one.outcome.lr_factor) == (other.outcome.cancelled, other.outcome.lr_factor)
        if not off:
            assert same(whole.before[name][-1], resumed.before[name][-1])
