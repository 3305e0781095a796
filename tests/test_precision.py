"""Every precision: norms of the gradients in use, exact skips, clips and rollbacks, and a GradScaler's own skips."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from runs import Faults, Net, fit
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gradguard import GradGuard
from lightning_gradguard.detectors import Exploding, LossSpike, NonFinite
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.remedies import AdaptiveClip, ReduceLR, Rollback, SkipStep
from lightning_gradguard.tensors import norms


def scaled(scale: float = 1024.0, **options: Any) -> dict[str, Any]:
    """fp16 with a GradScaler, on a CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, **options)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


PRECISIONS: dict[str, Any] = {
    **{name: (lambda name=name: {"precision": name}) for name in ("32-true", "64-true", "bf16-mixed", "bf16-true")},
    "16-true": lambda: {"precision": "16-true"},
    "16-mixed": scaled,
}
KINDS = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
#: What a norm may be off: rounding of the gradients themselves is in both numbers.
CLOSE = 1e-6


class Plain(Net):
    """Without BatchNorm, whose statistics half precision does not have; SGD, whose epsilon is not rounded to 0."""

    def __init__(self, **kind: Any) -> None:
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        super().__init__(net, lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, **kind))
        self.explode_at = -1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x.to(next(self.parameters()).dtype))
        loss = nn.functional.cross_entropy(out.float(), y)
        if self.trainer.global_step == self.explode_at:
            loss = loss + 300.0 * (out - out.detach()).float().mean()
        return loss


class Reference(pl.Callback):
    """Norms of the gradients by other means, in float64, before and after the guard; weights before and after steps."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.weights: list[list[Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad.double().flatten() for p in pl_module.parameters() if p.grad is not None]
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        still_scaled = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
        norm = float(torch.linalg.vector_norm(torch.cat(grads))) if grads else 0.0
        self.norms.append(norm / scaler.get_scale() if still_scaled else norm)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        optimizer = trainer.optimizers[0]
        momentum = [optimizer.state[p].get("momentum_buffer") for p in pl_module.parameters()]
        self.weights.append([t.detach().clone() for t in (*pl_module.parameters(), *momentum) if t is not None])


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def guard_with_every_remedy() -> GradGuard:
    ladders = {"nonfinite": [SkipStep()], "exploding": [AdaptiveClip()], "loss_spike": [(Rollback(), ReduceLR())]}
    detectors = (NonFinite(), LossSpike(warmup=4), Exploding(warmup=4, factor=20))
    return GradGuard(Policy(ladders), detectors, snapshot_every=4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_norms_skip_clip_and_rollback(precision: str, kind: str) -> None:
    if kind == "fused" and precision in ("bf16-true", "16-true"):
        pytest.skip("On a CPU, torch 2.13's fused SGD is wrong in half precision (pytorch issue 191763).")
    guard, before, after, module = guard_with_every_remedy(), Reference(), Reference(), Plain(**KINDS[kind])
    reports: list[Any] = []
    guard_step = guard.on_before_optimizer_step

    def kept(*args: Any) -> None:
        guard_step(*args)
        reports.append(guard.last_report)

    guard.on_before_optimizer_step = kept
    module.explode_at = 7
    faults = Faults({5: math.nan, 10: 500.0})
    fit(module, faults, before, guard, after, limit_train_batches=14, **PRECISIONS[precision]())

    for step, report in enumerate(reports):
        assert report.stats.global_norm == pytest.approx(before.norms[step], rel=CLOSE, nan_ok=True)
    assert [str(action) for action in reports[5].actions] == ["skipped the step"]
    assert same(before.weights[5], before.weights[6])
    assert str(reports[7].actions[0]).startswith("clipped")
    assert after.norms[7] == pytest.approx(reports[7].limit, rel=0.02 if "true" in precision else 1e-4)
    assert str(reports[10].actions[0]) == "rolled back to step 8"
    assert same(before.weights[8], before.weights[11])
    assert [step for step, report in enumerate(reports) if report.actions] == [5, 7, 10]


def test_clips_where_trainer_clipping_raises() -> None:
    fused = Plain(fused=True)
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        fit(fused, limit_train_batches=1, gradient_clip_val=0.1, **scaled())


def test_a_scalers_search_for_its_scale_is_routine() -> None:
    guard = GradGuard()
    trainer = fit(Plain(), guard, limit_train_batches=20, **scaled(2.0**30))
    assert trainer.precision_plugin.scaler.get_scale() < 2.0**30
    assert guard.findings == ()


def test_a_scaler_that_skips_for_ever_is_a_stall() -> None:
    module = Plain()
    module.net[0].bias.register_hook(lambda grad: grad * torch.inf)  # at any scale
    guard = GradGuard()
    fit(module, guard, limit_train_batches=30, **scaled())
    assert {finding.kind for finding in guard.findings} == {"stalled"}
    assert "GradScaler skipped 20 steps in a row" in str(guard.findings[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_loss_under_a_scaler_is_no_overflow(kind: str) -> None:
    guard, reference = GradGuard(), Reference()
    fit(Plain(**KINDS[kind]), Faults({3: math.nan}), reference, guard, limit_train_batches=6, **scaled())
    assert [(f.kind, f.step) for f in guard.findings] == [("nonfinite", 3), ("bad_batch", 3)]
    assert same(reference.weights[3], reference.weights[4])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_healthy_run_is_left_alone(precision: str) -> None:
    ends = []
    for callbacks in ([], [GradGuard()]):
        torch.manual_seed(0)
        module = Plain()
        fit(module, *callbacks, limit_train_batches=12, **PRECISIONS[precision]())
        ends.append([p.detach().clone() for p in module.parameters()])
    assert same(*ends)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_on_a_gpu(precision: str) -> None:
    guard, before, module = guard_with_every_remedy(), Reference(), Plain(fused=True)
    fit(module, Faults({5: math.nan}), before, guard, accelerator="gpu", precision=precision, limit_train_batches=10)
    assert same(before.weights[5], before.weights[6])


class Spy(TorchDispatchMode):
    """Counts single numbers read by the host, and tensors made in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.doubles = 0, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.items += func is torch.ops.aten._local_scalar_dense.default
        if isinstance(out, Tensor) and out.dtype is torch.float64:
            self.doubles.append(str(func))
        return out


def test_no_device_needs_float64_and_no_number_is_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "to_host", norms.in_one_transfer)  # as on any device but a CPU
    spied: list[Spy] = []
    guard = GradGuard(sample_every=1000)
    acting = guard.on_before_optimizer_step

    def watched(*args: Any) -> None:
        with Spy() as spy:
            acting(*args)
        spied.append(spy)

    guard.on_before_optimizer_step = watched
    fit(Net(), guard, limit_train_batches=12)
    plain = [spy for step, spy in enumerate(spied) if step and step & (step - 1)]  # no look inside, no snapshot
    assert [spy.items for spy in plain] == [0] * len(plain)
    assert [spy.doubles for spy in plain] == [[]] * len(plain)
