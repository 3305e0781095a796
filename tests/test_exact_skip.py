"""After NaN batches everything is as in a run in which these batches are not there, under every kind of optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import schedulefree
import torch
from runs import Batches, Capture, Faults, Net, fit, loader
from torch import nn

from lightning_gradguard import GradGuard
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.remedies import SkipStep
from lightning_gradguard.step.guarded_step import GuardedStep


class PerParameter(torch.optim.Optimizer):
    """Calls `update` for every parameter, whether it has a gradient or not."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                self.update(p, self.state[p], group["lr"])
        return loss

    def update(self, p: Any, state: dict[str, Any], lr: float) -> None:
        raise NotImplementedError


class Lion(PerParameter):
    """Chen et al. 2023, arXiv 2302.06675; weight decay also where there is no gradient."""

    def update(self, p: Any, state: dict[str, Any], lr: float) -> None:
        p.mul_(1 - 0.1 * lr)
        average = state.setdefault("average", torch.zeros_like(p))
        if p.grad is not None:
            p.sub_(lr * torch.lerp(average, p.grad, 0.1).sign())
            average.lerp_(p.grad, 0.01)


class Unchecked(PerParameter):
    """Does not ask whether there is a gradient."""

    def update(self, p: Any, state: dict[str, Any], lr: float) -> None:
        p.sub_(lr * p.grad)


class Inert(PerParameter):
    """Its momentum moves the weights without a gradient, too."""

    def update(self, p: Any, state: dict[str, Any], lr: float) -> None:
        state["steps"] = state.get("steps", 0) + 1
        momentum = state.setdefault("momentum", torch.zeros_like(p)).mul_(0.9)
        if p.grad is not None:
            momentum.add_(p.grad)
        p.sub_(lr * momentum)


class Lookahead(torch.optim.Optimizer):
    """Zhang et al. 2019, arXiv 1907.08610, as usually written: groups and state are the inner optimizer's."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.inner, self.param_groups, self.state = inner, inner.param_groups, inner.state
        self.slow = [[p.detach().clone() for p in group["params"]] for group in inner.param_groups]
        self.count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self.inner.step(closure)
        self.count += 1
        for group, slow in zip(self.param_groups, self.slow, strict=True):
            if self.count % 3 == 0:
                torch._foreach_lerp_(slow, group["params"], 0.5)
                torch._foreach_copy_(group["params"], slow)
        return loss


class Wrapper:
    """No torch optimizer at all, only what Lightning asks for."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.steps = inner, 0

    param_groups = property(lambda self: self.inner.param_groups)
    state = property(lambda self: self.inner.state)
    defaults = property(lambda self: self.inner.defaults)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        loss = self.inner.step(closure)
        self.steps += 1
        return loss


class ScheduleFreeWrapper(schedulefree.ScheduleFreeWrapper):
    """With the one attribute that Lightning misses there."""

    defaults = property(lambda self: self.base.defaults)


#: Settings that take other code paths than the defaults.
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD weight decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "Adam loop": lambda p: torch.optim.Adam(p, lr=0.01, foreach=False),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "RMSprop momentum": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "Muon": lambda p: torch.optim.Muon([w for w in p if w.ndim == 2], lr=0.01),
    "Lion": Lion,
    "Unchecked": Unchecked,
    "Inert": Inert,
    "Lookahead": lambda p: Lookahead(torch.optim.Adam(p, lr=0.01)),
    "Wrapper": lambda p: Wrapper(torch.optim.Adam(p, lr=0.01)),
    "ScheduleFreeWrapper": lambda p: ScheduleFreeWrapper(torch.optim.SGD(p, lr=0.1), momentum=0.9),
}
for package in (torch.optim, schedulefree):
    for name, found in vars(package).items():
        known = {torch.optim.Optimizer, torch.optim.SparseAdam}
        if isinstance(found, type) and issubclass(found, torch.optim.Optimizer) and found not in known:
            OPTIMIZERS.setdefault(name, found)
OPTIMIZERS = {name: make for name, make in OPTIMIZERS.items() if name != "Muon" or hasattr(torch.optim, "Muon")}

NEEDS_CLOSURE = {"LBFGS", *(name for name in OPTIMIZERS if "Closure" in name)}
#: Without the batches at these places a run is compared with.
SICK = (0, 4, 9)


class Module(Net):
    """A net with BatchNorm and a metric, by automatic or manual optimization."""

    def __init__(self, name: str, manual: bool = False) -> None:
        torch.manual_seed(0)
        super().__init__(optimizer=OPTIMIZERS[name])
        self.automatic_optimization, self.with_closure = not manual, name in NEEDS_CLOSURE

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            getattr(optimizer, "train", lambda: None)()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.automatic_optimization:
            return super().training_step(batch, batch_idx)

        def closure() -> Any:
            optimizer.zero_grad()
            loss = super(Module, self).training_step(batch, batch_idx)
            self.manual_backward(loss)
            return loss

        optimizer = self.optimizers()
        if self.with_closure:
            optimizer.step(closure=closure)
        else:
            closure()
            optimizer.step()
        return None


def everything(trainer: pl.Trainer, module: nn.Module) -> Any:
    """Whatever a step could change: weights, buffers, and all that hangs on the optimizer."""
    (optimizer,) = trainer.optimizers
    params = [p for group in optimizer.param_groups for p in group["params"]]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    state = [dict(optimizer.state.get(p, {})) for p in params]
    kinds = (int, float, list, torch.Tensor)
    other = {
        k: v for k, v in vars(optimizer).items() if isinstance(v, kinds) and k not in ("param_groups", "_opt_called")
    }
    return dict(module.state_dict()), groups, state, other


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nan_batches_are_as_if_they_were_not_there(name: str, manual: bool) -> None:
    data, ends = list(loader(14)), []
    sick = [[x * math.nan, y] if i in SICK else [x, y] for i, (x, y) in enumerate(data)]
    clean = [batch for i, batch in enumerate(data) if i not in SICK]
    guard = GradGuard(Policy({"nonfinite": [SkipStep()]}))
    for batches, callbacks in ((sick, [guard]), (clean, [])):
        module = Module(name, manual)
        trainer = fit(module, *callbacks, data=Batches(batches))
        assert vars(trainer.optimizers[0]).get("step") is None
        ends.append((everything(trainer, module), trainer.callback_metrics["train_loss_epoch"]))
    assert len([i for i in guard.incidents if i.kind == "nonfinite"]) == len(SICK)
    assert same(*ends)


class Sparse(Net):
    """An embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__(nn.EmbeddingBag(8, 3, sparse=True), torch.optim.SparseAdam)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        rows = batch[0].nan_to_num().argsort()[:, :2]
        return nn.functional.cross_entropy(self.net(rows) * batch[0].mean(), batch[1])


def test_sparse_gradients_are_skipped_too() -> None:
    modules = []
    for faults in ({3: math.nan}, {}):
        torch.manual_seed(0)
        modules.append(Sparse())
        data = [batch for i, batch in enumerate(loader(8)) if faults or i != 3]
        fit(modules[-1], Faults(faults), *([GradGuard()] if faults else []), data=Batches(data))
    assert torch.equal(modules[0].net.weight, modules[1].net.weight)


# -------------------------------------------------------------------- what others see of it


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_nobody_is_told_that_a_cancelled_step_happened(precision: str) -> None:
    told: list[int] = []

    class Scheduled(Net):
        def configure_optimizers(self) -> Any:
            sgd = torch.optim.SGD(self.parameters(), lr=0.01)
            sgd.register_step_post_hook(lambda *_: told.append(self.trainer.global_step))
            schedule = torch.optim.lr_scheduler.ExponentialLR(sgd, 0.9)
            return {"optimizer": sgd, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    plugins: Any = None
    if precision == "16-mixed":
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        plugins = pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)
    guard = GradGuard(Policy({"nonfinite": [SkipStep()], "bad_batch": [SkipStep()]}))
    rates = Capture(lambda trainer, _: trainer.optimizers[0].param_groups[0]["lr"])
    fit(Scheduled(), Faults({1: math.inf, 3: math.nan}), guard, rates, plugins=plugins, limit_train_batches=6)
    assert told == [0, 2, 4, 5]
    assert rates.seen == pytest.approx([0.01 * 0.9**i for i in range(1, 7)])


@pytest.mark.parametrize("inside", [True, False])
def test_a_schedule_takes_a_first_step_that_is_cancelled_for_one(inside: bool) -> None:
    """It warns when it steps before its optimizer, as a GradScaler makes it do when it skips the first step."""
    weight = torch.ones(1, requires_grad=True)
    sgd = torch.optim.SGD([weight], lr=0.1)
    schedule, guarded = torch.optim.lr_scheduler.ExponentialLR(sgd, 0.9), GuardedStep(sgd)
    weight.grad = torch.ones(1)
    if inside:
        sgd.step(guarded.cancel)  # type: ignore[arg-type]
    else:
        guarded.cancel()
        sgd.step()
    schedule.step()
    assert weight.item() == 1
    sgd.step()
    assert weight.item() < 1


def test_weights_that_an_optimizer_moves_before_its_closure_are_put_back_unless_they_are_rolled_back() -> None:
    class MovesFirst(torch.optim.SGD):
        def step(self, closure: Any) -> Any:  # type: ignore[override]
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.add_(1)
            return closure()

    weight = torch.zeros(1, requires_grad=True)
    optimizer = MovesFirst([weight], lr=0.1)
    guarded = GuardedStep(optimizer)

    def roll_back() -> None:
        guarded.cancel()
        weight.data.fill_(-7)

    seen = []
    for closure in (lambda: None, lambda: None, guarded.cancel, roll_back, lambda: None):
        optimizer.step(closure)
        seen.append(weight.item())
    assert seen == [1, 2, 2, -7, -6]


def test_a_schedule_made_during_the_run_and_the_end_of_the_run_leave_a_working_step() -> None:
    class Late(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                self.schedule = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizers[0], 0.9)

    module = Net(optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
    trainer = fit(module, Late(), Faults({4: math.nan}), GradGuard(), limit_train_batches=6)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    before = module.net[0].weight.detach().clone()
    module.net[0].weight.grad = torch.ones_like(before)
    trainer.optimizers[0].step()
    assert not torch.equal(module.net[0].weight, before)


def test_a_scaler_keeps_its_scale_when_a_fused_step_with_finite_gradients_is_cancelled() -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer, scaler = torch.optim.AdamW([weight], fused=True), torch.amp.GradScaler("cpu", init_scale=4.0)
    guarded = GuardedStep(optimizer)
    for cancelled in (True, False):
        scaler.scale(weight.sum()).backward()
        if cancelled:
            guarded.cancel()
        scaler.step(optimizer)
        scaler.update()
        assert (scaler.get_scale(), weight[0].item() == 1) == (4.0, cancelled)
