from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import Net, fit, loader
from torch import nn

from lightning_gradguard import GradGuard
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.policy.presets import MONITOR
from lightning_gradguard.remedies import AGC, AbstractClip
from lightning_gradguard.run_engine import RunContext, RunEngine
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.pending_step import PendingStep
from lightning_gradguard.step.snapshots import Snapshots

FUSED: dict[str, Any] = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, fused=True),
}
OTHERS: dict[str, Any] = {
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "SGD unfused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "half fused": lambda p: torch.optim.SGD([{"params": p[:1], "fused": True}, {"params": p[1:]}], lr=0.1),
}


@dataclass(frozen=True)
class Fixed(AbstractClip):
    """Clipping as everybody knows it."""

    limit: float = 0.5

    def init(self) -> dict[str, Any]:
        return {}

    def apply(self, state: dict[str, Any], step: PendingStep) -> dict[str, Any]:
        step.clip_to(self.limit)
        return state


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def backward(module: nn.Module, step: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 4, generator=generator).to(next(module.parameters()).dtype)
    loss = 10 * module(x).square().mean()
    module.zero_grad()
    loss.backward()
    return loss


def pending(module: nn.Module, optimizer: torch.optim.Optimizer) -> PendingStep:
    stats = GradStats.of({"a": 1.0})
    return PendingStep(
        optimizer=optimizer, stats=stats, lr_factor=LRFactor(optimizer), snapshots=Snapshots(module, optimizer),
        forward_state=ForwardState(module), fused_clip=True,
    )  # fmt: skip


def engine_of(module: nn.Module, optimizer: torch.optim.Optimizer, fused_clip: bool = True) -> RunEngine:
    return RunEngine(
        RunContext(
            module=module, optimizer=optimizer, detectors=[], policy=MONITOR, clip=Fixed(), fused_clip=fused_clip
        )
    )


@pytest.mark.parametrize("name", [*FUSED, *OTHERS])
def test_clipping_equals_clip_grad_norm_however_it_is_done(name: str) -> None:
    mine, theirs = net(), net()
    optimizers = [(FUSED | OTHERS)[name](list(m.parameters())) for m in (mine, theirs)]
    engine = engine_of(mine, optimizers[0])
    for step in range(10):
        loss = backward(mine, step)
        raw = [p.grad.clone() for p in mine.parameters()]
        report = engine.before_step([loss])
        assert report.outcome.clip_coefficient < 1
        untouched = all(torch.equal(p.grad, g) for p, g in zip(mine.parameters(), raw, strict=True))
        assert untouched == hasattr(optimizers[0], "grad_scale") == (name in FUSED)
        optimizers[0].step()
        backward(theirs, step)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizers[1].step()
        assert not hasattr(optimizers[0], "grad_scale")
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUSED)
def test_scalings_multiply_and_so_does_a_clip_of_units(name: str) -> None:
    ends = []
    for defer in (True, False):
        module = net()
        optimizer = FUSED[name](module.parameters())
        backward(module)
        step = replace(pending(module, optimizer), fused_clip=defer)
        step.scale_gradients(0.5)
        AGC(clipping=0.05).apply({}, step)
        step.scale_gradients(0.125)
        assert step.clip_coefficient == 0.0625
        optimizer.step()
        ends.append([p.detach().clone() for p in module.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("coefficient", [0.0, 1e-35])
def test_what_fp32_cannot_invert_is_multiplied_at_once(coefficient: float) -> None:
    module = net()
    optimizer = FUSED["SGD"](module.parameters())
    backward(module)
    before = copy.deepcopy(list(module.parameters()))
    pending(module, optimizer).scale_gradients(coefficient)
    assert not hasattr(optimizer, "grad_scale")
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))


def test_doubles_are_clipped_in_double_precision() -> None:
    module = net(torch.float64)
    optimizer = FUSED["SGD"](module.parameters())
    backward(module)
    raw = [p.grad.clone() for p in module.parameters()]
    pending(module, optimizer).scale_gradients(0.3)
    assert all(torch.equal(p.grad, 0.3 * g) for p, g in zip(module.parameters(), raw, strict=True))


def test_a_cancelled_step_leaves_no_scale_behind() -> None:
    module = net()
    optimizer = FUSED["AdamW"](module.parameters())
    backward(module)
    step = pending(module, optimizer)
    step.scale_gradients(0.5)
    step.cancel()
    assert not hasattr(optimizer, "grad_scale")


@pytest.mark.parametrize("end", ["next step", "close"])
def test_a_step_that_never_came_leaves_no_scale_behind(end: str) -> None:
    module = net()
    optimizer = FUSED["AdamW"](module.parameters())
    engine = engine_of(module, optimizer)
    engine.before_step([backward(module)])
    assert hasattr(optimizer, "grad_scale")
    if end == "close":
        engine.close()
    else:
        (1e-3 * backward(module)).detach()
        for p in module.parameters():
            p.grad.mul_(1e-3)
        engine.before_step([torch.tensor(1.0)])
    assert not hasattr(optimizer, "grad_scale")


def test_an_engine_alone_does_not_leave_clipping_to_the_optimizer() -> None:
    module = net()
    optimizer = FUSED["AdamW"](module.parameters())
    engine = engine_of(module, optimizer, fused_clip=False)
    engine.before_step([backward(module)])
    assert not hasattr(optimizer, "grad_scale")
    assert float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])) == pytest.approx(0.5, rel=1e-5)


class Reads(pl.Callback):
    """Reads gradients just before the step."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.norm = float(torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters()]))


class Overrides(Net):
    """A module that clips by itself."""

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.4, gradient_clip_algorithm="norm")


CASES: dict[str, tuple[type[Net], bool, list[Any], dict[str, Any]]] = {
    "nobody": (Net, True, [], {}),
    "a callback before": (Net, True, [Reads(), "guard"], {}),
    "a callback after": (Net, False, ["guard", Reads()], {}),
    "the module": (Overrides, False, [], {}),
    "the Trainer": (Net, False, [], {"gradient_clip_val": 0.4}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*clips after GradGuard")
def test_the_guard_defers_only_when_nobody_reads_after_it(case: str) -> None:
    module, deferred, callbacks, options = CASES[case]
    weights = []
    for fused in (True, False):
        seen: list[bool] = []

        def optimizer(params: Any, fused: bool = fused, seen: list[bool] = seen) -> torch.optim.Optimizer:
            sgd = torch.optim.SGD(params, lr=0.1, fused=fused)
            sgd.register_step_post_hook(lambda *_: seen.append(hasattr(sgd, "grad_scale")))
            return sgd

        torch.manual_seed(0)
        run = module(optimizer=optimizer)
        guard = GradGuard("protect", clip=Fixed(0.5))
        order = [guard if c == "guard" else c for c in callbacks] or [guard]
        fit(run, *order, data=loader(8), **options)
        assert any(seen) == (deferred and fused)
        weights.append([p.detach().clone() for p in run.parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
