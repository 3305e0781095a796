"""Every loop: accumulation, manual optimization, several optimizers, closures, and gradients of every odd sort."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning
from runs import Batches, Capture, Faults, Net, fit, loader
from torch import Tensor, nn

from lightning_gradguard import GradGuard
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.remedies import AdaptiveClip, SkipStep
from lightning_gradguard.step.pending_step import PendingStep


def norm_of(params: Any) -> float:
    """Independent of the package: the L2 norm of these gradients."""
    return float(torch.linalg.vector_norm(torch.stack([p.grad.double().norm() for p in params if p.grad is not None])))


class Keep(pl.Callback):
    """Keeps the guard's report of every optimizer step, and what `look` finds just before the guard acts."""

    def __init__(self, guard: GradGuard, look: Any = None) -> None:
        self.guard, self.look = guard, look
        self.reports: list[Any] = []
        self.looks: list[Any] = []
        acting = guard.on_before_optimizer_step

        def kept(trainer: Any, module: Any, optimizer: Any) -> None:
            if self.look is not None:
                self.looks.append(self.look(trainer, module, optimizer))
            acting(trainer, module, optimizer)
            watch = guard._engines.get(id(optimizer))
            if watch is not None:
                self.reports.append(guard.last_report)

        guard.on_before_optimizer_step = kept


# ---------------------------------------------------------------- accumulation


def test_a_partial_last_window_is_reported_as_the_optimizer_uses_it() -> None:
    losses: list[float] = []

    class Recording(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

    guard = GradGuard()
    keep = Keep(guard, lambda t, m, o: norm_of(m.parameters()))
    fit(Recording(), guard, data=loader(8), accumulate_grad_batches=3)
    windows = [losses[:3], losses[3:6], losses[6:8]]  # after the last step, the last batches are measured once more
    assert [r.stats.loss for r in keep.reports] == pytest.approx([sum(w) / len(w) for w in windows], rel=1e-6)
    assert [r.stats.global_norm for r in keep.reports] == pytest.approx(keep.looks, rel=1e-6)
    assert guard.findings == ()


def test_a_nan_micro_batch_spoils_its_window_only() -> None:
    guard = GradGuard()
    module = Net()
    keep = Keep(guard)

    class Spoil(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 4:
                batch[0].mul_(math.nan)

    fit(module, Spoil(), guard, data=loader(12), accumulate_grad_batches=3)
    assert [r.outcome.cancelled for r in keep.reports] == [False, True, False, False]
    assert all(torch.isfinite(t).all() for t in module.state_dict().values())


# ---------------------------------------------------------------- manual optimization


class GAN(pl.LightningModule):
    """Two optimizers; the generator's backward pass leaves gradients in the discriminator."""

    raw = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8))
        self.discriminator = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0]
        generate, discriminate = self.optimizers(use_pl_optimizer=not self.raw)
        noise = torch.randn(len(real), 4)
        generate.zero_grad()
        fake = self.generator(noise)
        self.manual_backward(nn.functional.softplus(-self.discriminator(fake)).mean())
        generate.step()
        discriminate.zero_grad()
        wrong = nn.functional.softplus(self.discriminator(fake.detach())).mean()
        self.manual_backward(wrong + nn.functional.softplus(-self.discriminator(real)).mean())
        discriminate.step()

    def configure_optimizers(self) -> Any:
        adam = torch.optim.Adam
        return [adam(self.generator.parameters(), 1e-3), adam(self.discriminator.parameters(), 1e-3)]


def test_two_optimizers_never_mix(tmp_path: Any) -> None:
    guard = GradGuard()
    keep = Keep(guard, lambda t, m, o: (norm_of(m.generator.parameters()), norm_of(m.discriminator.parameters())))
    fit(GAN(), guard, data=loader(6))
    for i, (report, (generator, discriminator)) in enumerate(zip(keep.reports, keep.looks, strict=True)):
        own, leaked = (generator, discriminator) if i % 2 == 0 else (discriminator, generator)
        assert report.optimizer == str(i % 2)
        assert report.stats.global_norm == pytest.approx(own, rel=1e-6)
        assert leaked > 0
        assert {name.split(".")[0] for name in report.stats.layers.names} == {("generator", "discriminator")[i % 2]}
        assert {key.split("/")[1] for key in report.scalars()} == {str(i % 2)}
    assert set(guard.state_dict()["engines"]) == {"0", "1"}


def test_a_sick_optimizer_is_skipped_and_the_other_goes_on() -> None:
    class Sick(GAN):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                batch[0].mul_(math.nan)  # reaches the discriminator only
            super().training_step(batch, batch_idx)

    guard, module = GradGuard(), Sick()
    seen = Capture(lambda t, m: [[p.detach().clone() for p in part.parameters()] for part in m.children()])
    fit(module, guard, seen, data=loader(5))
    moved = [
        [any(not torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(before, after, strict=True)]
        for before, after in zip(seen.seen, seen.seen[1:], strict=False)
    ]
    assert moved == [[True, True], [True, True], [True, False], [True, True]]
    assert {(i.kind, i.optimizer) for i in guard.incidents} == {("nonfinite", "1")}


def test_raw_optimizers_are_said_to_be_unseen() -> None:
    module, guard = GAN(), GradGuard()
    module.raw = True
    with pytest.warns(UserWarning, match="use_pl_optimizer"):
        fit(module, guard, data=loader(25))
    assert guard.findings == ()
    assert not guard._losses


def test_manual_accumulation_counts_every_backward() -> None:
    class Manual(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.losses: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            loss = nn.functional.cross_entropy(self.net(x), y)
            self.losses.append(loss.item())
            self.manual_backward(loss)
            if batch_idx % 2:
                self.optimizers().step()
                self.optimizers().zero_grad()

    guard, module = GradGuard(), Manual()
    keep = Keep(guard)
    fit(module, guard, data=loader(6))
    assert [r.stats.loss for r in keep.reports] == pytest.approx(
        [(a + b) / 2 for a, b in zip(module.losses[::2], module.losses[1::2], strict=True)], rel=1e-6
    )


# ---------------------------------------------------------------- closures, None, groups


def test_lbfgs_is_watched_at_every_evaluation() -> None:
    guard = GradGuard()
    keep = Keep(guard)
    module = Net(nn.Sequential(nn.Linear(8, 3)), lambda params: torch.optim.LBFGS(params, lr=0.5, max_iter=4))
    fit(module, Faults({3: math.nan}), guard, data=loader(6))
    assert len(keep.reports) > 6
    assert [finding.kind for finding in guard.findings] == ["nonfinite", "bad_batch"]
    assert all(torch.isfinite(p).all() for p in module.parameters())


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_step_that_returns_none(accumulate: int) -> None:
    class Shy(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            return None if batch_idx in (2, 3) else super().training_step(batch, batch_idx)

    guard = GradGuard()
    fit(Shy(), guard, data=loader(12), accumulate_grad_batches=accumulate)
    assert guard.findings == ()


class Tuned(Net):
    """A backbone and a head; the optimizer begins with the head alone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.net = nn.Linear(8, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-2)


def test_groups_that_join_later_are_watched() -> None:
    guard = GradGuard(snapshot_every=1)
    keep = Keep(guard, lambda t, m, o: norm_of(p for group in o.param_groups for p in group["params"]))
    unfreeze = BackboneFinetuning(unfreeze_backbone_at_epoch=1, lambda_func=lambda epoch: 1.0, verbose=False)
    fit(Tuned(), unfreeze, Faults({9: math.nan}), guard, data=loader(5), max_epochs=3)
    assert [set(r.stats.layers.names) for r in keep.reports][4:6] == [{"net"}, {"backbone.0", "net"}]
    healthy = [
        (r.stats.global_norm, look) for r, look in zip(keep.reports, keep.looks, strict=True) if not r.outcome.cancelled
    ]
    assert [norm for norm, _ in healthy] == pytest.approx([look for _, look in healthy], rel=1e-6)
    assert [finding.kind for finding in guard.findings] == ["nonfinite", "bad_batch"]


# ---------------------------------------------------------------- odd gradients


class Frozen(Net):
    def __init__(self) -> None:
        super().__init__()
        self.net[0].requires_grad_(False)


class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(4, 4)


class Tied(Net):
    def __init__(self) -> None:
        first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        second.weight = first.weight
        super().__init__(nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(8, 3)))


class Complex(Net):
    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.randn(8, dtype=torch.complex64))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net((x * self.phase).abs()), y)


class Empty(Net):
    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + self.nothing.sum()


class Sparse(Net):
    def __init__(self) -> None:
        super().__init__(optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
        self.table = nn.Embedding(10, 8, sparse=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        words = (x[:, 0].nan_to_num().abs() * 3).long().clamp(max=9)
        return nn.functional.cross_entropy(self.net(self.table(words) + x), y)


class LoRA(Net):
    """A frozen matrix with a trained low-rank addition; the optimizer gets the addition only."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
        nn.init.zeros_(self.up.weight)
        self.net.requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(self.base(x) + self.up(self.down(x))), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([*self.down.parameters(), *self.up.parameters()], lr=1e-2)


@pytest.mark.parametrize("make", [Frozen, Unused, Tied, Complex, Empty, Sparse, LoRA])
def test_odd_gradients_are_measured_skipped_and_clipped(make: Any) -> None:
    ladders = {"nonfinite": [SkipStep()], "exploding": [AdaptiveClip()], "loss_spike": [AdaptiveClip()]}
    guard, module = GradGuard(Policy(ladders)), make()

    def reference(trainer: Any, pl_module: Any, optimizer: Any) -> float:
        owned = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        dense = [g.to_dense() if g.is_sparse else g for g in owned]
        return math.sqrt(sum(float(g.abs().double().square().sum()) for g in dense))

    keep = Keep(guard, reference)
    seen = Capture(lambda t, m: [p.detach().clone() for p in m.parameters()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(module, Faults({4: math.nan}), guard, seen, data=loader(8))
    norms = [r.stats.global_norm for r in keep.reports]
    assert norms == pytest.approx(keep.looks, rel=1e-5, nan_ok=True)
    assert [r.outcome.cancelled for r in keep.reports] == [step == 4 for step in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(seen.seen[3], seen.seen[4], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(seen.seen[4], seen.seen[5], strict=True))


@pytest.mark.parametrize("make", [Complex, Empty, Sparse, LoRA])
def test_odd_gradients_are_scaled(make: Any) -> None:
    class Halve(pl.Callback):
        def __init__(self) -> None:
            self.pairs: list[tuple[float, float]] = []

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            actor = next(iter(guard._engines.values())).actor
            step = PendingStep(
                optimizer=optimizer, stats=guard.last_report.stats, lr_factor=actor.lr_factor,
                snapshots=actor.snapshots, forward_state=actor.forward_state,
            )  # fmt: skip
            before = [g.to_dense().clone() for g in step.grads]
            step.scale_gradients(0.5)
            assert all(torch.equal(g.to_dense(), b * 0.5) for g, b in zip(step.grads, before, strict=True))
            self.pairs.append((1.0, step.clip_coefficient))

    guard, halve = GradGuard(), Halve()
    fit(make(), guard, halve, data=loader(2))
    assert halve.pairs == [(1.0, 0.5)] * 2


@pytest.mark.filterwarnings("ignore:Total length of `.*` across ranks is zero")
def test_batches_of_nothing_do_no_harm() -> None:
    guard = GradGuard()
    fit(Net(), guard, data=Batches([]), max_epochs=1)
    assert guard.findings == ()
