"""Layers that never receive a gradient are reported in real runs; frozen or rarely used ones are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from runs import Net, fit, loader
from torch import Tensor, nn

from lightning_gradguard import GradGuard, GradStats
from lightning_gradguard.detectors import Unused
from lightning_gradguard.findings import Incident


class Extra(Net):
    """A net with a spare layer, which is used on every `every`-th batch."""

    def __init__(self, every: int = 0, frozen: bool = False) -> None:
        super().__init__()
        self.spare = nn.Linear(8, 3).requires_grad_(not frozen)
        self.every = every

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x)
        if self.every and batch_idx % self.every == self.every - 1:
            out = out + self.spare(x)
        return nn.functional.cross_entropy(out, y)


def guarded(module: Net, **options: Any) -> GradGuard:
    guard = GradGuard()
    fit(module, guard, data=loader(50), max_epochs=5, **options)
    return guard


def test_one_open_incident_names_the_layer_that_forward_never_calls() -> None:
    guard = guarded(Extra())
    (incident,) = guard.incidents
    assert guard.report().outcome == "healthy"  # the run is none the worse for it
    assert guard.report().headline == "GradGuard: 250 steps, 1 incident(s): 1 unused; healthy."
    assert Incident.from_dict(incident.to_dict()).is_notice
    assert (incident.kind, incident.layers, incident.outcome) == ("unused", ("spare",), "open")
    assert (incident.first_step, incident.last_step) == (99, 249)


@pytest.mark.parametrize("module", [lambda: Extra(every=40), lambda: Extra(frozen=True)], ids=["rare", "frozen"])
def test_a_layer_that_is_used_rarely_or_frozen_is_not_reported(module: Any) -> None:
    assert guarded(module()).incidents == ()


def test_the_incident_is_resolved_when_the_layer_is_used() -> None:
    guard = GradGuard()
    module = Extra(every=150)
    fit(module, guard, data=loader(200))
    (incident,) = guard.incidents
    assert (incident.outcome, incident.first_step, incident.last_step) == ("resolved", 99, 148)


def test_the_count_begins_when_a_layer_is_unfrozen() -> None:
    class Unfreeze(Extra):
        def on_train_epoch_start(self) -> None:
            self.spare.requires_grad_(self.current_epoch >= 2)

    (incident,) = guarded(Unfreeze(frozen=True)).incidents
    assert incident.first_step > 199


def test_no_layer_is_reported_while_it_is_unknown_which_are_frozen() -> None:
    detector = Unused(steps=1, min_steps=1)
    state, found = detector.update(detector.init(), GradStats.of({"a": 1.0, "b": 0.0}))
    assert found == ()
    assert torch.tensor(state["missed"]).tolist() == [-1, 1]


def test_layers_before_a_dead_one_are_not_reported() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    nn.init.constant_(net[2].bias, -100.0)
    assert "unused" not in {incident.kind for incident in guarded(Net(net)).incidents}
