"""The comparison with libraries built on Lightning: what differs is told, and copies of a guard still tell."""

from __future__ import annotations

import copy
import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FILE = Path(__file__).parent.parent / "benchmarks" / "libraries" / "comparison.py"


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.fixture(scope="module")
def bench() -> Any:
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("libraries_comparison", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["libraries_comparison"] = module
    spec.loader.exec_module(module)
    return module


def fit(callbacks: list[Any], change: bool = False) -> nn.Module:
    """Trains with copies of the callbacks, as some libraries do."""
    module = Line()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", enable_model_summary=False, callbacks=copy.deepcopy(callbacks), **options
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.randn(80, 2)), batch_size=8))
    if callbacks and change:
        warnings.warn("changed", stacklevel=1)
        module.net.weight.data += 1
    return module


def test_a_harmless_guard_is_called_harmless(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.PROGRAMS, "line", fit)
    rows = bench.compare("none", "line")
    assert [(r.policy, r.steps, r.weights, r.said, r.harmless) for r in rows] == [
        (policy, 10, "same", (), True) for policy in bench.POLICIES
    ]


def test_what_differs_is_told(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.PROGRAMS, "line", lambda callbacks: fit(callbacks, change=True))
    row = bench.compare("none", "line", policies=["protect"])[0]
    assert (row.weights, row.said, row.harmless) == ("changed", ("UserWarning: changed",), False)


def test_an_exception_is_told(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(callbacks: list[Any]) -> nn.Module:
        if callbacks:
            raise ValueError("no callbacks")
        return fit([])

    monkeypatch.setitem(bench.PROGRAMS, "line", fails)
    row = bench.compare("none", "line", policies=["protect"])[0]
    assert (row.error, row.harmless) == ("ValueError: no callbacks", False)
