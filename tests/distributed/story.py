"""One training story that every strategy has to tell alike: a NaN batch, a loss spike and an explosion.

The trouble of the first two steps is on the last process only. Batch `i` is the same in every strategy, however many
processes share it out, so that norms, losses and decisions can be held against those of one process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from lightning_gradguard import GradGuard
from lightning_gradguard.detectors import Exploding, LossSpike, NonFinite, Overshooting
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.remedies import AdaptiveClip, ReduceLR, Rollback, SkipStep
from lightning_gradguard.tensors.shards import local

STEPS, SAVED, ROWS = 16, 7, 16
NAN_STEP, SPIKE_STEP, EXPLOSION_STEP = 5, 9, 12


class Net(nn.Module):
    def __init__(self, width: int = 16, norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(8, width)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(self.norm(torch.tanh(self.first(x))))))


class Story(pl.LightningModule):
    """Rank `part` of `parts` sees its slice of each batch, in `micro` pieces."""

    def __init__(self, parts: int = 1, width: int = 16, norm: bool = False, micro: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = Net(width, norm)
        self.parts, self.micro = parts, micro

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        step, piece = self.trainer.global_step, batch_idx % self.micro  # a resumed loader would begin again
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(ROWS, 8, generator=generator)
        y = x[:, :4].sin()
        if step == NAN_STEP:
            x[-1] = float("nan")
        if step == SPIKE_STEP:
            y[-2:] += 100.0
        part = self.global_rank % self.parts
        rows = torch.arange(ROWS).reshape(self.parts, self.micro, -1)[part, piece]
        out = self.net(x[rows])
        loss = (out - y[rows]).square().mean()
        if step == EXPLOSION_STEP:  # the loss's value stays
            loss = loss + 1e4 * (out - out.detach()).mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(range(STEPS * self.micro), batch_size=1)


def guard_of_the_story() -> GradGuard:
    ladders = {
        "nonfinite": [SkipStep()],
        "loss_spike": [(Rollback(), ReduceLR())],
        "exploding": [AdaptiveClip()],
    }
    detectors = (NonFinite(), LossSpike(warmup=4), Exploding(warmup=4, factor=100), Overshooting())
    return GradGuard(Policy(ladders), detectors, sample_every=4, snapshot_every=4)


class Witness(pl.Callback):
    """Looks at what really happens to this process's weights; stands before the guard in the list of callbacks."""

    def __init__(self, guard: GradGuard, folder: Path | None) -> None:
        self.guard, self.folder = guard, folder
        self.rows: list[dict[str, Any]] = []
        self.weights: list[list[Tensor]] = []  # weights and optimizer state before each step
        self.buffers: list[list[Tensor]] = []  # before each step's first batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.weights.append(weights(trainer.optimizers[0]))
            self.buffers.append(copies(pl_module.buffers()))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        report, optimizer = self.guard.last_report, trainer.optimizers[0]
        stats, after, buffers = report.stats, weights(optimizer), copies(pl_module.buffers())
        self.rows.append({
            "step": stats.step, "loss": repr(stats.loss), "norm": stats.global_norm, "layers": list(stats.layers.names),
            "numel": stats.layers.numel.tolist(), "matrix": stats.layers.matrix.tolist(),
            "norms": stats.grad_norm.tolist(), "buffers": list(stats.buffers),
            "ratio": None if stats.update_ratio is None else stats.update_ratio.tolist(),
            "findings": [str(f) for f in report.findings], "actions": [str(action) for action in report.actions],
            "lr_factor": report.outcome.lr_factor, "clip": report.outcome.clip_coefficient, "limit": repr(report.limit),
            "user_lr": optimizer.param_groups[0]["lr"], "calls": COUNTER.calls, "skipped": report.outcome.cancelled,
            "same_as": [i for i, before in enumerate(self.weights) if same(before, after)],
            "buffers_as": [i for i, before in enumerate(self.buffers) if same(before, buffers)],
        })  # fmt: skip
        COUNTER.calls = 0
        if self.folder is not None and trainer.global_step == SAVED:
            trainer.save_checkpoint(self.folder / "saved.ckpt")
            COUNTER.calls = 0


class After(pl.Callback):
    """Stands behind the guard: the squared norm of the gradients that the optimizer really gets; FSDP1's is a piece."""

    def __init__(self) -> None:
        self.left: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        grads = [g.full_tensor() if isinstance(g, DTensor) else g for g in (p.grad for p in params) if g is not None]
        self.left.append(sum(float(g.double().square().sum()) for g in grads))


COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_object", "barrier", "broadcast", "broadcast_object_list",
    "reduce_scatter_tensor",
)  # fmt: skip


class Counter:
    """Counts the collective calls that GradGuard itself makes, by the file that makes them."""

    def __init__(self) -> None:
        self.calls = 0
        names = (
            "all_reduce",
            "all_gather",
            "all_gather_object",
            "barrier",
            "broadcast",
            "broadcast_object_list",
            "reduce_scatter_tensor",
        )
        for name in names:
            original = getattr(torch.distributed, name)
            setattr(torch.distributed, name, self.counted(original))

    def counted(self, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += "lightning_gradguard" in sys._getframe(1).f_code.co_filename
            return original(*args, **kwargs)

        return call


COUNTER = Counter()


def weights(optimizer: Any) -> list[Tensor]:
    """Copies of this process's pieces of the weights and of the optimizer's state."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return copies((*params, *(v for p in params for v in optimizer.state.get(p, {}).values() if isinstance(v, Tensor))))


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [local(t.detach()).clone() for t in tensors]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def tell(
    module: pl.LightningModule, trainer: dict[str, Any], folder: Path | None = None, ckpt: Path | None = None
) -> dict[str, Any]:
    """Runs the story (from a checkpoint, if given): everything a test asks about, as plain data."""
    guard, after = guard_of_the_story(), After()
    witness = Witness(guard, folder)
    fitted = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, callbacks=[witness, guard, after], **trainer,
    )  # fmt: skip
    COUNTER.calls = 0
    fitted.fit(module, ckpt_path=ckpt)
    return {
        "rows": witness.rows,
        "left": after.left,
        "findings": [str(f) for f in guard.findings],
        "incidents": [str(i) for i in guard.incidents],
    }
