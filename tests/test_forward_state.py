from __future__ import annotations

import torch
from torch import nn
from torchmetrics import CatMetric, MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassPrecision

from lightning_gradguard.collect.forward_state import ForwardState


def test_batchnorm_is_as_before_the_batch() -> None:
    net = nn.BatchNorm1d(4)
    state = ForwardState(net)
    for _ in range(3):
        state.save()
        net(torch.randn(8, 4))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state.save()
    net(torch.full((8, 4), torch.nan))
    assert net.running_mean.isnan().all()
    state.restore()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert [name for name, _ in state.moving] == ["running_mean", "running_var"]


def test_even_the_first_batch_can_be_undone() -> None:
    net = nn.BatchNorm1d(4)
    state = ForwardState(net)
    state.save()
    net(torch.full((8, 4), torch.nan))
    state.restore()
    assert torch.equal(net.running_mean, torch.zeros(4))
    assert int(net.num_batches_tracked) == 0


def test_a_buffer_may_get_another_shape_under_the_same_name() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.BatchNorm1d(4))
    state = ForwardState(net)
    for width in (4, 4, 6, 6):
        for key in ("running_mean", "running_var"):
            getattr(net[1], key).data = torch.full((width,), 2.0)
        state.save()
        net[1].running_mean.add_(torch.nan)
        state.restore()
        assert torch.equal(net[1].running_mean, torch.full((width,), 2.0))


class Counting(nn.Module):
    """A constant mask, and a buffer that is changed on some batches only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((4,), -torch.inf))
        self.register_buffer("seen", torch.zeros(1))


def test_constants_are_not_copied_and_late_movers_are_found() -> None:
    net = Counting()
    state = ForwardState(net)
    for _ in range(3):
        state.save()
    assert [slot.kept for slot in state.slots] == [None, None]
    assert state.moving == []
    net.seen += 1
    state.save()
    net.seen += 1
    state.restore()
    assert float(net.seen) == 1.0
    assert [name for name, _ in state.moving] == ["seen"]


def test_metrics_are_as_before_the_batch() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.cat = MeanMetric(nan_strategy="disable"), CatMetric(nan_strategy="disable")
            self.both = MetricCollection([MulticlassAccuracy(3), MulticlassPrecision(3)])

        def batch(self, value: float, guess: int) -> None:
            self.mean(torch.tensor(value))
            self.cat(torch.tensor(value))
            self.both(torch.tensor([guess, 0, 1]), torch.tensor([2, 0, 1]))

    touched, clean = Module(), Module()
    state = ForwardState(touched)
    for value, guess in ((1.0, 2), (2.0, 1), (4.0, 2)):
        state.save()
        touched.batch(value, guess)
        clean.batch(value, guess)
        state.save()
        touched.batch(float("nan"), 0)
        state.restore()
    assert float(touched.mean.compute()) == float(clean.mean.compute())
    assert touched.cat.compute().tolist() == clean.cat.compute().tolist()
    assert {k: float(v) for k, v in touched.both.compute().items()} == {
        k: float(v) for k, v in clean.both.compute().items()
    }
