from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from lightning_gradguard.collect.collector import Collector
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.step.snapshots import Snapshots
from lightning_gradguard.tensors.processes import ProcessGroupInfo


def trained(sizes: tuple[int, ...]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A net whose optimizer holds its parameters in another order than the module does."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
    optimizer = torch.optim.SGD(list(net.parameters())[::-1], lr=0.1)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    return net, optimizer


@pytest.mark.parametrize("from_snapshot", [False, True])
@pytest.mark.parametrize(
    "sizes", [(3, 4, 5), (3, 2**11, 2**12, 3)]
)  # the second in parts; torch adds 2**23 squares to 2e-4
def test_a_sample_is_weight_and_update_of_each_layer(sizes: tuple[int, ...], from_snapshot: bool) -> None:
    net, optimizer = trained(sizes)
    collector = Collector(net, optimizer, ForwardState(net), ProcessGroupInfo())
    snapshots = Snapshots(net, optimizer)
    for step in range(3):
        snapshot = snapshots.take(step) if from_snapshot else None
        before = [p.detach().clone() for p in net.parameters()]
        collector.keep_weights(None if snapshot is None else snapshot.params)
        optimizer.step()
        collector.measure_update()
        assert collector.sample is not None
        moved = [p.detach() - b for p, b in zip(net.parameters(), before, strict=True)]
        weight, ratio = collector.sample
        for i in range(len(net)):
            expected = torch.cat([t.flatten() for t in before[2 * i : 2 * i + 2]]).double().norm()
            update = torch.cat([t.flatten() for t in moved[2 * i : 2 * i + 2]]).double().norm()
            assert weight[i] == pytest.approx(float(expected), rel=1e-3)
            assert ratio[i] == pytest.approx(float(update / expected), rel=1e-3)
        if snapshot is not None:
            assert all(torch.equal(a, b) for a, b in zip(snapshot.params, before[::-1], strict=True))


def test_a_sample_that_was_dropped_is_not_measured() -> None:
    net, optimizer = trained((3, 4))
    collector = Collector(net, optimizer, ForwardState(net), ProcessGroupInfo())
    collector.keep_weights()
    collector.forget_weights()
    collector.measure_update()
    assert collector.sample is None
