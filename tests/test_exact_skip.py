"""A skipped step leaves weights, buffers and optimizer state bit for bit, under every optimizer Lightning can drive."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from runs import Capture, Faults, Net, fit
from torch import nn

from lightning_gradguard import GradGuard

OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD weight decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "Adam loop": lambda p: torch.optim.Adam(p, lr=0.01, foreach=False),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}
if hasattr(torch.optim, "Muon"):
    OPTIMIZERS["Muon"] = lambda p: torch.optim.Muon([w for w in p if w.ndim == 2], lr=0.01)


def contents(trainer: Any, module: nn.Module) -> Any:
    """Everything a step could change, and the logged epoch mean."""
    optimizer = trainer.optimizers[0]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = [dict(optimizer.state.get(p, {})) for p in params]
    for entry in state:
        entry.pop("func_evals", None)  # LBFGS counts evaluations of the closure, and there was one
    return copy.deepcopy((dict(module.state_dict()), state))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_skip_changes_nothing(name: str) -> None:
    capture, guard = Capture(contents), GradGuard()
    fit(Net(optimizer=OPTIMIZERS[name]), Faults({6: torch.nan}), guard, capture, max_steps=10)
    assert [finding.kind for finding in guard.findings] == ["nonfinite", "bad_batch"]
    assert same(capture.seen[6], capture.seen[5]), "the skipped step changed something"
    assert not same(capture.seen[7], capture.seen[6]), "the step after it did nothing"


def test_epoch_metrics_forget_the_skipped_batch() -> None:
    trainer = fit(Net(), Faults({6: torch.nan}), GradGuard(), max_epochs=1)
    assert torch.isfinite(trainer.callback_metrics["train_loss_epoch"])
