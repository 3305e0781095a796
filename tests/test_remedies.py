from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_gradguard import remedies
from lightning_gradguard.collect.activation_probe import ActivationProbe
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.layers import ParamTable
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.policy import PROTECT
from lightning_gradguard.remedies import AGC, AbstractRemedy, AdaptiveClip, AutoClip, ReduceLR, Rollback, Stop, ZClip
from lightning_gradguard.step.adam_update import AdamUpdate
from lightning_gradguard.step.checkup import Question
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.pending_step import PendingStep
from lightning_gradguard.step.snapshots import Snapshots
from lightning_gradguard.tensors.norms import read_norms

EVERY = sorted({type(remedy)() for remedy in PROTECT.remedies}, key=repr)


def pending(scale: float = 1.0) -> PendingStep:
    net = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    (scale * net(torch.ones(3, 4)).square().sum()).backward()
    table = ParamTable(net.named_parameters(), list(net.parameters()))
    norms, _ = read_norms([p.grad for p in table.params])
    stats = GradStats(0, table.layers, table.per_layer(norms))
    return PendingStep(
        optimizer=optimizer, stats=stats, lr_factor=LRFactor(optimizer), snapshots=Snapshots(net, optimizer),
        forward_state=ForwardState(net),
    )  # fmt: skip


def norm_now(step: PendingStep) -> float:
    return float(torch.nn.utils.get_total_norm(step.grads))


@pytest.mark.parametrize("remedy", EVERY, ids=[r.name for r in EVERY])
def test_every_remedy_is_stateless_and_says_what_it_did(remedy: AbstractRemedy) -> None:
    before = repr(remedy)
    step = pending(1e3)
    action = remedy.apply(Finding("exploding", 0, ("a",), step.stats.global_norm, 1.0), step)
    assert action is not None
    assert action.name == remedy.name
    assert action.summary
    assert "\n" not in action.summary
    assert step.changes
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
    assert str(ReduceLR().apply(Finding("x", 0), step)) == "reduced the learning-rate factor from 1 to 0.1"
    ReduceLR().apply(Finding("x", 0), step)
    assert step.lr_factor.factor == pytest.approx(0.01)
    step.weights_changed = False
    assert ReduceLR().apply(Finding("x", 0), step) is None
    assert step.lr_factor.factor == pytest.approx(0.01)


def test_rollback_only_skips_when_the_weights_are_not_at_fault() -> None:
    step = pending()
    step.snapshots.take(3)
    step.weights_changed = False
    assert "weights are unchanged" in str(Rollback().apply(Finding("x", 4), step))
    assert step.cancelled
    assert step.restored is None


def test_stop_restores_and_gives_a_reason() -> None:
    step = pending()
    step.snapshots.take(3)
    Stop().apply(Finding("nonfinite", 9, detail="loss"), step)
    assert step.restored is not None
    assert step.stop_reason.startswith("nonfinite persisted after all remedies")


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
    assert AdaptiveClip().apply(Finding("x", 0, value=before, limit=2 * before), step) is None
    assert norm_now(step) == before


def repairing(net: nn.Module, x: torch.Tensor, optimizer: torch.optim.Optimizer) -> PendingStep:
    """A step under a guard that may change the model, with a look inside its batch."""
    probes = ActivationProbe(net)
    probes.open()
    loss = net(x).square().mean()
    probes.shut()
    loss.backward()
    scale, batch = LRFactor(optimizer), ForwardState(net)
    stats = GradStats.of({"0": 1.0}, step=0, loss=loss.item(), total_steps=1000)
    return PendingStep(
        optimizer=optimizer, stats=stats, lr_factor=scale, snapshots=Snapshots(net, optimizer), forward_state=batch,
        module=net, adam=AdamUpdate(optimizer), activation_stats=probes.read(),
    )  # fmt: skip


def sigmoids() -> tuple[nn.Sequential, PendingStep]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.Sigmoid(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    return net, repairing(net, 100 * torch.randn(256, 8) + 50, torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.99))


def test_reinitialize_draws_with_the_gain_of_each_activation() -> None:
    net, step = sigmoids()
    state = torch.get_rng_state()
    assert remedies.Reinitialize().apply(Finding("x", 3), step) == Action("Reinitialize", "re-initialized 3 layers")
    assert torch.equal(torch.get_rng_state(), state)
    assert net[0].weight.std().item() == pytest.approx(4 * (2 / 72) ** 0.5, rel=0.1)  # Glorot, gain 4
    assert net[2].weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)  # He
    assert not net[0].bias.any()


def test_swap_activation_and_insert_norm_keep_the_output_layer_and_the_parameters() -> None:
    net, step = sigmoids()
    params = list(net.parameters())
    assert "2 activations" in str(remedies.SwapActivation().apply(Finding("x", 0), step))
    assert isinstance(net[1], nn.SELU)
    assert isinstance(net[3], nn.SELU)
    assert remedies.InsertNorm().apply(Finding("x", 0), step) == Action(
        "InsertNorm", "inserted normalization after 2 layers"
    )
    assert isinstance(net[4], nn.Linear)
    assert [id(p) for p in net.parameters()] == [id(p) for p in params]


def test_only_chosen_kinds_are_swapped() -> None:
    net, step = sigmoids()
    remedies.SwapActivation(only=("sigmoid",)).apply(Finding("x", 0), step)
    assert isinstance(net[3], nn.ReLU)


def test_normalize_input_standardizes_and_leaves_ordinary_input_alone() -> None:
    net, step = sigmoids()
    assert "standardized" in str(remedies.NormalizeInput().apply(Finding("x", 0), step))
    x = 100 * torch.randn(256, 8) + 50
    assert net[0][0](x).std().item() == pytest.approx(1.0, abs=0.01)
    fine = nn.Sequential(nn.Linear(4, 2))
    assert not remedies.NormalizeInput().apply(
        Finding("x", 0), repairing(fine, torch.randn(64, 4), torch.optim.SGD(fine.parameters(), lr=0.1))
    )


def test_normalize_input_standardizes_sequences() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.cell(x)[0][:, -1])  # type: ignore[no-any-return]

    net, x = Last(), 1e-3 * torch.randn(64, 5, 4)
    step = repairing(net, x, torch.optim.SGD(net.parameters(), lr=0.1))
    assert "standardized the input of cell" in str(remedies.NormalizeInput().apply(Finding("x", 0), step))
    assert net.cell[0](x).std(dim=(0, 1)).tolist() == pytest.approx([1.0] * 4, abs=0.01)


@pytest.mark.parametrize(("p", "reduced", "called_for"), [(0.5, False, False), (0.7, True, False), (0.9, True, True)])
def test_reduce_dropout(p: float, reduced: bool, called_for: bool) -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(p), nn.Linear(16, 2), nn.Dropout1d(0.2))
    step = repairing(net, torch.randn(64, 8), torch.optim.SGD(net.parameters(), lr=0.1))
    assert remedies.ReduceDropout().is_called_for(step) == called_for
    action = remedies.ReduceDropout().apply(Finding("x", 0), step)
    assert (action is not None and action.summary) == (reduced and f"reduced dropout from {p} to 0.1 in 1 layers")
    assert [net[2].p, net[4].p] == [0.1 if reduced else p, 0.2]


def test_reduce_momentum_and_scale_lr() -> None:
    _, step = sigmoids()
    assert str(remedies.ReduceMomentum().apply(Finding("x", 0), step)) == "reduced momentum from 0.99 to 0.9"
    assert remedies.ReduceMomentum().apply(Finding("x", 0), step) is None
    remedies.ScaleLR(10.0).apply(Finding("x", 0), step)
    assert step.lr_factor.effective_lr() == 5.0


def test_switch_to_adam_takes_adams_steps_through_sgd() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    twin = nn.Linear(4, 2)
    twin.load_state_dict(net.state_dict())
    sgd, adam = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9), torch.optim.Adam(twin.parameters(), lr=1e-3)
    step = repairing(net, torch.ones(3, 4), sgd)
    assert remedies.SwitchToAdam(1e-3).apply(Finding("x", 0), step)
    for i in range(20):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(i))
        for model in (net, twin):
            model.zero_grad()
            model(x).square().sum().backward()
        step.adam.apply()
        sgd.step()
        adam.step()
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_switch_to_adam_leaves_other_optimizers_alone() -> None:
    net = nn.Linear(4, 2)
    step = repairing(net, torch.ones(3, 4), torch.optim.AdamW(net.parameters()))
    assert remedies.SwitchToAdam().apply(Finding("x", 0), step) is None


class Asked:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.questions: list[Question] = []

    def ask(self, question: Question) -> None:
        self.questions.append(question)


@pytest.mark.parametrize(("changed", "untouched", "asks"), [(True, False, 1), (False, True, 1), (False, False, 0)])
def test_nothing_is_asked_when_the_weights_are_not_at_fault(changed: bool, untouched: bool, asks: int) -> None:
    _, step = sigmoids()
    step.checkup, step.weights_changed, step.untouched = Asked(), changed, untouched
    finding = Finding("x", 0)  # the same object: Python 3.13 finds NaN in two of them to differ
    assert remedies.TryEach(((remedies.ScaleLR(0.1),),), advice="wait").apply(finding, step) is None
    assert not step.cancelled
    assert step.checkup.questions == asks * [Question(finding, ((remedies.ScaleLR(0.1),),), "wait")]


def test_an_epsilon_that_is_too_large_is_reduced() -> None:
    net = nn.Linear(4, 2)
    groups = [{"params": [net.weight], "eps": 0.1}, {"params": [net.bias]}]
    adam = torch.optim.Adam(groups)
    step = repairing(net, torch.ones(3, 4), adam)
    assert str(remedies.ReduceEps().apply(Finding("x", 0), step)) == "reduced eps from 0.1 to 1e-08"
    assert [group["eps"] for group in adam.param_groups] == [1e-8, 1e-8]
    assert remedies.ReduceEps().apply(Finding("x", 0), step) is None


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: remedies.TryEach(()), "must be a sequence of sets of remedies"),
        (lambda: remedies.ScaleLR(1.0), "must not be 1"),
        (lambda: remedies.SwapActivation("Nothing"), "torch.nn"),
        (lambda: remedies.ReduceMomentum(above=0.8, to=0.9), "of at most 0.8"),
        (lambda: remedies.ReduceDropout(above=0.3, to=0.4), "of at most 0.3"),
        (lambda: remedies.SwitchToAdam(0.0), "above 0"),
        (lambda: remedies.ReduceEps(above=1e-8, to=1e-6), "at most 1e-08"),
        (lambda: remedies.NormalizeInput(0.0), "above 0"),
    ],
)
def test_configuration_errors_quote_the_rule(make, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        make()


def adam(**settings: float) -> Callable[..., torch.optim.Optimizer]:
    return lambda params: torch.optim.AdamW(params, lr=0.01, **settings)


@pytest.mark.parametrize(
    ("remedy", "make", "called_for"),
    [
        (remedies.ReduceEps(), adam(eps=1e-3, weight_decay=0.0), False),
        (remedies.ReduceEps(), adam(eps=0.1), True),
        (remedies.ReduceEps(), lambda params: torch.optim.RMSprop(params, eps=1.0), False),
        (remedies.ReduceMomentum(), lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.99), False),
        (remedies.ReduceMomentum(), lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.999), True),
        (remedies.ReduceMomentum(), adam(betas=(0.999, 0.999)), True),
        (remedies.RemoveWeightDecay(), adam(weight_decay=0.1), False),
        (remedies.RemoveWeightDecay(), adam(weight_decay=1.0), True),
        (remedies.ScaleLR(10), adam(), False),
    ],
)
def test_settings_further_off_than_in_any_published_recipe_call_for_a_remedy(
    remedy: AbstractRemedy, make: Callable[..., torch.optim.Optimizer], called_for: bool
) -> None:
    step = pending()
    step.optimizer = make(nn.Linear(4, 2).parameters())
    step.lr_factor = LRFactor(step.optimizer)
    assert remedy.is_called_for(step) == called_for


@pytest.mark.parametrize(
    ("factor", "called_for"), [(0.0, False), (1e-4, True), (0.1, False), (1.0, False), (29.0, False), (31.0, True)]
)
def test_inputs_far_off_call_for_standardization(factor: float, called_for: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    probe = ActivationProbe(net)
    probe.open()
    net(factor * torch.ones(16, 4)).sum().backward()
    step = pending()
    step.module, step.activation_stats = net, probe.read()
    remedy = remedies.NormalizeInput()
    assert remedy.is_called_for(step) == called_for
    assert (remedy.apply(Finding("", 0), step) is not None) == called_for


def test_words_counted_are_no_tiny_inputs() -> None:
    net, probe = nn.Linear(5000, 2), None
    probe = ActivationProbe(net)
    probe.open()
    net(nn.functional.one_hot(torch.arange(64), 5000).float()).sum().backward()
    step = pending()
    step.module, step.activation_stats = net, probe.read()
    assert not remedies.NormalizeInput().is_called_for(step)


@pytest.mark.parametrize(
    ("layer", "change", "called_for"),
    [
        (nn.Linear(64, 64), lambda w: w, False),
        (nn.Linear(64, 64), lambda w: w * 1e-4, True),
        (nn.Linear(64, 64), lambda w: w * 0.0, False),
        (nn.Linear(64, 64), lambda w: w * 0.0 + 0.1, True),
        (nn.Conv2d(8, 8, 3), lambda w: w, False),
        (nn.Conv2d(8, 8, 3), lambda w: torch.randn_like(w), True),
        (nn.GRU(8, 8), lambda w: w * 0.0 + 0.1, True),
        (nn.Linear(2, 2), lambda w: w * 1e-4, False),  # too few to tell
        (nn.Embedding(64, 64), lambda w: w, False),
    ],
)
def test_initial_weights_far_off_call_for_others(layer: nn.Module, change: Any, called_for: bool) -> None:
    torch.manual_seed(0)
    weight = next(p for p in layer.parameters() if p.ndim > 1)
    with torch.no_grad():
        weight.copy_(change(weight))
    step = pending()
    step.module = layer
    assert remedies.Reinitialize().is_called_for(step) == called_for
    weight.requires_grad_(False)
    assert not remedies.Reinitialize().is_called_for(step)
