from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_gradguard import remedies
from lightning_gradguard.batch_state import BatchState
from lightning_gradguard.findings import Finding
from lightning_gradguard.lr_scale import LRScale
from lightning_gradguard.pending import PendingStep
from lightning_gradguard.remedies import AGC, AbstractRemedy, AdaptiveClip, AutoClip, ReduceLR, Rollback, Stop, ZClip
from lightning_gradguard.snapshots import Snapshots
from lightning_gradguard.stats import GradStats, ParamTable, read_norms

EVERY = [
    cls()
    for name in remedies.__all__
    if isinstance(cls := getattr(remedies, name), type)
    and issubclass(cls, AbstractRemedy)
    and cls is not AbstractRemedy
    and cls.reversible
]


def pending(scale: float = 1.0) -> PendingStep:
    net = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    (scale * net(torch.ones(3, 4)).square().sum()).backward()
    table = ParamTable(net.named_parameters(), list(net.parameters()))
    norms, _ = read_norms([p.grad for p in table.params])
    stats = GradStats(0, table.layers, table.per_layer(norms))
    return PendingStep(optimizer, stats, LRScale(optimizer), Snapshots(net, optimizer), BatchState(net))


def norm_now(step: PendingStep) -> float:
    return float(torch.nn.utils.get_total_norm(step.grads))


@pytest.mark.parametrize("remedy", EVERY, ids=[r.name for r in EVERY])
def test_every_remedy_is_stateless_and_says_what_it_did(remedy: AbstractRemedy) -> None:
    before = repr(remedy)
    step = pending(1e3)
    words = remedy.apply(Finding("exploding", 0, ("a",), step.stats.global_norm, 1.0), step)
    assert words
    assert "\n" not in words
    assert repr(remedy) == before
    assert hash(remedy) == hash(type(remedy)())


@pytest.mark.parametrize("limit", [0.1, 1.0, 1e9])
def test_adaptive_clip_equals_clip_grad_norm(limit: float) -> None:
    step, other = pending(50.0), pending(50.0)
    for mine, theirs in zip(step.grads, other.grads, strict=True):
        theirs.copy_(mine)
    AdaptiveClip().apply(Finding("exploding", 0, value=step.stats.global_norm, limit=limit), step)
    params = [p for group in other.optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(params, limit)
    for mine, theirs in zip(step.grads, other.grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=0)


def test_reductions_compound_only_when_something_was_stepped() -> None:
    step = pending()
    assert "0.1" in ReduceLR().apply(Finding("x", 0), step)
    ReduceLR().apply(Finding("x", 0), step)
    assert step.lr_scale.factor == pytest.approx(0.01)
    step.damage = False
    assert "stays" in ReduceLR().apply(Finding("x", 0), step)
    assert step.lr_scale.factor == pytest.approx(0.01)


def test_rollback_only_skips_when_the_weights_are_not_at_fault() -> None:
    step = pending()
    step.snapshots.take(3)
    step.damage = False
    assert "not at fault" in Rollback().apply(Finding("x", 4), step)
    assert step.cancelled
    assert step.restored is None


def test_stop_restores_and_says_unrecoverable() -> None:
    step = pending()
    step.snapshots.take(3)
    Stop().apply(Finding("nonfinite", 9, detail="loss"), step)
    assert step.restored is not None
    assert "unrecoverable" in step.stop_reason


def test_autoclip_follows_its_percentile() -> None:
    clip = AutoClip(percentile=50)
    state = clip.init()
    for scale in (1.0, 1.0, 1.0, 1.0, 100.0):
        step = pending()
        step.stats = GradStats.of({"a": scale})
        state = clip.apply(state, step)
    assert step.clip_coefficient == pytest.approx(0.01)


def test_zclip_learns_then_clips_and_ignores_nan() -> None:
    clip = ZClip(warmup=5)
    state = clip.init()
    for norm in (1.0, 1.1, 0.9, 1.0, 1.05, math.nan, 1.0, 50.0):
        step = pending()
        step.stats = GradStats.of({"a": norm})
        state = clip.apply(state, step)
    assert 1.0 < step.clip_coefficient * 50 < 1.5
    assert state["mean"] < 1.2


def test_agc_bounds_every_unit() -> None:
    step = pending(1e3)
    AGC(clipping=0.01).apply({}, step)
    for p in (p for group in step.optimizer.param_groups for p in group["params"]):
        dims = tuple(range(1, p.ndim)) or None
        ratio = p.grad.norm(dim=dims) / p.norm(dim=dims).clamp(min=1e-3)
        assert bool((ratio <= 0.01 * (1 + 1e-5)).all())


def test_nothing_is_clipped_below_the_limit() -> None:
    step = pending()
    before = norm_now(step)
    assert AdaptiveClip().apply(Finding("x", 0, value=before, limit=2 * before), step) == ""
    assert norm_now(step) == before
