"""Histograms of gradients and updates, in TensorBoard and W&B, only where they are asked for."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from runs import Faults, Net, fit, same_state
from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, EventAccumulator

from lightning_gradguard import GradGuard
from lightning_gradguard.record.histograms import BINS, Histogram, histogram_of
from lightning_gradguard.trainer import log_histograms


def shown(folder: str) -> EventAccumulator:
    events = EventAccumulator(folder, size_guidance={HISTOGRAMS: 0})
    events.Reload()
    return events


def test_tensorboard_has_every_layer_at_every_nth_step(tmp_path: Path) -> None:
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    fit(Net(), Faults({20: math.nan}), GradGuard(histograms_every=10), logger=logger)
    events = shown(logger.log_dir)
    names = [f"gradguard/{what}/net.{i}" for what in ("gradients", "updates") for i in (0, 1, 3)]
    assert events.Tags()["histograms"] == names
    for name in names:
        assert [event.step for event in events.Histograms(name)] == [0, 10, 30]  # at 20 the gradient is NaN
    weights = {0: 8 * 16 + 16, 1: 16 + 16, 3: 16 * 3 + 3}
    assert [events.Histograms(name)[0].histogram_value.num for name in names] == [*weights.values()] * 2


def test_updates_are_what_the_optimizer_changed(tmp_path: Path) -> None:
    logger, module = pl.loggers.TensorBoardLogger(tmp_path), Net(optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    before = torch.cat([p.detach().flatten() for p in module.net[0].parameters()])
    fit(module, GradGuard(histograms_every=10), logger=logger, max_steps=1, max_epochs=-1)
    after = torch.cat([p.detach().flatten() for p in module.net[0].parameters()])
    (update,) = shown(logger.log_dir).Histograms("gradguard/updates/net.0")
    moved = (after - before).double()
    value = update.histogram_value
    assert (value.min, value.max) == pytest.approx((float(moved.min()), float(moved.max())))
    assert value.sum == pytest.approx(float(moved.sum()), rel=1e-4)
    (gradient,) = shown(logger.log_dir).Histograms("gradguard/gradients/net.0")
    assert gradient.histogram_value.max == pytest.approx(-value.min / 0.1, rel=1e-4)


@pytest.mark.parametrize("logger", [None, pl.loggers.CSVLogger])
def test_no_logger_that_shows_histograms_and_none_asked_for_write_none(logger: Any, tmp_path: Path) -> None:
    modules = []
    for every in (None, 1):
        pl.seed_everything(0, verbose=False)
        modules.append(Net())
        fit(modules[-1], GradGuard(histograms_every=every), logger=logger(tmp_path) if logger else False)
    assert same_state(*modules)


def test_values_that_are_equal_or_not_finite_have_no_histogram() -> None:
    for values in ([], [1.0], [2.0, 2.0], [math.nan, 1.0], [math.inf, 1.0]):
        assert histogram_of([torch.tensor(values)]) is None
    made = histogram_of([torch.linspace(-1, 1, 1000).half()])
    assert made is not None
    assert (made.counts.sum(), len(made.counts), len(made.edges)) == (1000, BINS, BINS + 1)


def test_wandb_gets_all_layers_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = ModuleType("wandb")
    wandb.Histogram = lambda np_histogram: np_histogram  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logged: list[Any] = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append((metrics, step)))
    made = Histogram(np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0]), 7.0, 9.0)
    log_histograms(logger, {"a": made, "b": made}, 30)
    assert logged == [({name: ([3.0, 4.0], [0.0, 1.0, 2.0]) for name in "ab"}, 30)]


@pytest.mark.parametrize("every", [0, 1.5, True, "3"])
def test_the_interval_is_a_positive_whole_number(every: Any) -> None:
    with pytest.raises(ValueError, match=r"`GradGuard\(histograms_every=...\)` must be a whole number of at least 1"):
        GradGuard(histograms_every=every)
