"""NaN and Inf are followed to the operation that made them, in one more pass that leaves no trace."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import Faults, Net, files, fit, same_state
from torch import Tensor, nn

from lightning_gradguard import GradGuard
from lightning_gradguard.detectors import NonFinite
from lightning_gradguard.modules.first_nonfinite import FirstNonFinite
from lightning_gradguard.replay import replay

HERE = r" \(tests/test_first_nonfinite.py:\d+\)"
FIRST, LABELS = torch.tensor([True, False, False, False]), torch.tensor([0, 1, 2])


class Then(nn.Module):
    """Softmax, and a function of it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.linear, self.softmax, self.function = nn.Linear(4, 4), nn.Softmax(-1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.softmax(self.linear(x)))


def followed(function: Any) -> tuple[str, ...]:
    torch.manual_seed(0)
    module = Then(function)
    with FirstNonFinite({id(m): name for name, m in module.named_modules()}) as first:
        loss = module(torch.randn(3, 4)).mean()
    torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    return first.of(loss)


def overwritten(p: Tensor) -> Tensor:
    q = torch.full((3, 4), math.nan)
    q[:] = p
    return q


def divided_in_place(p: Tensor) -> Tensor:
    q = p.clone()
    q[0] = q[0] / 0
    return q


@pytest.mark.parametrize(
    ("function", "operation", "where"),
    [
        (lambda p: (0 * p).log(), "log", "log" + HERE),
        (lambda p: (0 * p).log().T * 0, "log", "mul" + HERE + ", after log" + HERE),
        (lambda p: (0 * p).sqrt(), "sqrt", "the gradient of sqrt" + HERE),
        (lambda p: torch.where(p > 0.3, (p - 0.3).sqrt(), p), "sqrt", "the gradient of sqrt" + HERE),
        (
            lambda p: p.masked_fill(FIRST | True, -math.inf).softmax(-1),
            "masked_fill",
            "softmax.*after masked_fill.*",
        ),
        (lambda p: nn.functional.cross_entropy(p * 1e40, LABELS), "mul", "cross_entropy.*, after mul" + HERE),
        (divided_in_place, "div", "div" + HERE),
    ],
)
def test_the_operation_that_made_it_is_named(function: Any, operation: str, where: str) -> None:
    found = followed(function)
    assert found[0] == operation
    assert re.fullmatch(where, found[1])


@pytest.mark.parametrize(
    "function", [torch.relu, lambda p: p.masked_fill(FIRST, -math.inf).softmax(-1), overwritten], ids=str
)
def test_what_never_reaches_the_loss_is_no_cause(function: Any) -> None:
    assert followed(function) == ()


def test_a_module_whose_input_is_not_finite_is_named() -> None:
    module = Then(torch.relu)
    x = torch.full((3, 4), math.nan)
    with FirstNonFinite({id(m): name for name, m in module.named_modules()}) as first:
        loss = module(x[: x.size(0)]).mean()
    assert first.of(loss)[1].startswith("the input of getitem")
    with FirstNonFinite({id(m): name for name, m in module.named_modules()}) as first:
        loss = module(x).mean()
    assert first.of(loss)[1].startswith("the input of linear of linear")


class Root(Net):
    """Takes a root at zero at some steps."""

    def __init__(self, at: tuple[int, ...]) -> None:
        super().__init__(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3)))
        self.at, self.calls = at, 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.calls += 1
        logits = self.net(batch[0])
        logits = (logits - logits.detach()).sqrt() if self.trainer.global_step in self.at else logits
        return nn.functional.cross_entropy(logits, batch[1])


@pytest.mark.parametrize(("policy", "explain"), [("protect", False), ("monitor", True), ("repair", False)])
def test_the_first_step_that_is_not_finite_is_followed_once(policy: Any, explain: bool, tmp_path: Path) -> None:
    guard, module = GradGuard(policy, [NonFinite()], explain=explain), Root((20, 21))
    fit(module, guard, logger=files(tmp_path))
    found = guard.findings
    assert "gradient is not finite, first in the gradient of sqrt (tests/test_first_nonfinite.py:" in found[0].detail
    assert all("first in" not in finding.detail for finding in found[1:])
    assert guard.incidents[0].advice.startswith("look at the gradient of sqrt (tests/test_first_nonfinite.py:")
    assert ": sqrt(x + 1e-8) stays finite" in guard.incidents[0].advice
    assert module.calls == 40
    assert repr(replay(tmp_path, [NonFinite()], policy).incidents) == repr(guard.report().incidents)


def test_the_second_pass_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> Root:
        pl.seed_everything(1, verbose=False)
        module = Root((20,))
        fit(module, GradGuard())
        return module

    watched = trained()
    monkeypatch.setattr("lightning_gradguard.callback.GradGuard._first_nonfinite", lambda *_: ())
    assert same_state(watched, trained())


@pytest.mark.parametrize("guard", [GradGuard("monitor", [NonFinite()]), GradGuard(detectors=[NonFinite()])])
def test_under_monitor_nothing_is_called_twice(guard: GradGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("lightning_gradguard.callback.GradGuard._first_nonfinite", lambda *_: asked.append(1) or ())
    fit(Root((20,)), guard)
    assert len(asked) == guard.policy.allows_actions


def test_samples_that_are_not_finite_explain_the_step_and_nothing_is_called_twice(monkeypatch: Any) -> None:
    monkeypatch.setattr("lightning_gradguard.callback.GradGuard._first_nonfinite", pytest.fail)
    guard = GradGuard()
    fit(Net(), Faults({20: math.nan}), guard)
    assert [incident.kind for incident in guard.incidents] == ["nonfinite"]


def test_of_accumulated_batches_the_one_with_the_loss_is_followed() -> None:
    class Log(Root):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * torch.zeros(()).log() if batch_idx == 13 else loss

    guard = GradGuard("repair", [NonFinite()])
    fit(Log(()), guard, accumulate_grad_batches=4)
    assert "loss is inf" in guard.findings[0].detail or "loss is -inf" in guard.findings[0].detail
    assert "first in log (tests/test_first_nonfinite.py:" in guard.findings[0].detail


def test_compiled_code_runs_eagerly() -> None:
    module = Root((20,))
    module.net = torch.compile(module.net, backend="eager")  # type: ignore[assignment]
    guard = GradGuard(detectors=[NonFinite()])
    fit(module, guard)
    assert "first in the gradient of sqrt" in guard.findings[0].detail
