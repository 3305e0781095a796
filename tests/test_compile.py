"""`torch.compile`: the guard adds no graph break, no recompilation and no graph, and acts as it does without."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from runs import Capture, Faults, Net, fit
from torch import Tensor, nn
from torch._dynamo.utils import counters

from lightning_gradguard import GradGuard

#: torch._dynamo reads `.grad` of every input, and hides the warning in a way that does not hide an error.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")

WAYS = ("whole", "part", "in place", "function")


class Body(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for part in self:
            x = part(x)
        return x


class Quiet(Net):
    """`self.log` does not compile in Lightning 2.6 (its issue 21836)."""

    def __init__(self) -> None:
        super().__init__(Body(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)))
        self.loss = nn.functional.cross_entropy

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])


class Backend:
    """Runs graphs as they are, and counts them: one for each compilation."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


def run(way: str, *callbacks: Any) -> tuple[Quiet, dict[str, Any]]:
    """A compiled module trained for 24 steps, among them every sort that the guard does something at."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    module, backend = Quiet(), Backend()
    if way == "part":
        module.net = torch.compile(module.net, backend=backend)
    elif way == "in place":
        module.net.compile(backend=backend)
    elif way == "function":
        module.loss = torch.compile(module.loss, backend=backend)
    whole = torch.compile(module, backend=backend) if way == "whole" else module
    fit(whole, Faults({9: math.nan}), *callbacks, limit_train_batches=24)
    tallies = {"graphs": backend.graphs, "breaks": sum(counters["graph_break"].values())}
    return module, {**tallies, "recompiles": sum(counters["recompile"].values()), "stats": dict(counters["stats"])}


@pytest.mark.parametrize("way", WAYS)
def test_no_break_and_no_recompilation(way: str) -> None:
    _, without = run(way)
    _, watched = run(way, GradGuard(sample_every=4, snapshot_every=4))
    assert without["graphs"] > 0
    assert watched == without


@pytest.mark.parametrize("way", WAYS)
def test_skips_exactly_and_names_cleanly(way: str) -> None:
    guard = GradGuard()
    seen = Capture(lambda t, m: {key: v.clone() for key, v in m.state_dict().items()})
    run(way, guard, seen)
    finding, _ = guard.findings
    assert [(f.kind, f.step) for f in guard.findings] == [("nonfinite", 9), ("bad_batch", 9)]
    assert set(finding.layers) == {"net.0", "net.1", "net.3"}
    assert all(torch.equal(seen.seen[8][key], seen.seen[9][key]) for key in seen.seen[8])


@pytest.mark.gpu
def test_on_a_gpu_with_inductor() -> None:
    torch.manual_seed(0)
    guard, module = GradGuard(), Quiet()
    fit(torch.compile(module), Faults({9: math.nan}), guard, limit_train_batches=20, accelerator="gpu")
    assert {finding.step for finding in guard.findings} == {9}
