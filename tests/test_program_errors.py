"""Mistakes in the program are named on the first sample, and nothing is said of the same programs without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from runs import fit, loader
from torch import Tensor, nn

from lightning_gradguard import GradGuard, GradStats
from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.loss_calls import LossCall, LossWatch
from lightning_gradguard.detectors import ConstantTarget, LossMismatch

Loss = Callable[[Tensor, Tensor], Tensor]


def net(*modules: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), *modules)


def binary(loss: Any) -> Loss:
    return lambda output, y: loss(output.squeeze(1), (y > 0).float())


def numbers(loss: Any, scale: float = 1.0, shift: float = 0.0) -> Loss:
    return lambda output, y: loss(output.squeeze(1), scale * y.float() + shift)


def by_hand(output: Tensor, y: Tensor) -> Tensor:
    return -(output / output.sum(1, keepdim=True)).clamp(1e-7).log().gather(1, y[:, None]).mean()


def binary_by_hand(output: Tensor, y: Tensor) -> Tensor:
    p, target = output.squeeze(1).clamp(1e-7, 1 - 1e-7), (y > 0).float()
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


MISTAKES: dict[str, tuple[list[nn.Module], Loss, str]] = {
    "softmax before cross_entropy": ([nn.Linear(8, 3), nn.Softmax(1)], F.cross_entropy, "leave the softmax out"),
    "relu before cross_entropy": ([nn.Linear(8, 3), nn.ReLU()], F.cross_entropy, "leave the relu out"),
    "sigmoid twice": (
        [nn.Linear(8, 1), nn.Sigmoid()], binary(F.binary_cross_entropy_with_logits), "leave the sigmoid out",
    ),
    "softmax over one unit": ([nn.Linear(8, 1), nn.Softmax(1)], binary(F.binary_cross_entropy), "single unit"),
    "softmax over one unit, mse": ([nn.Linear(8, 1), nn.Softmax(1)], numbers(F.mse_loss), "single unit"),
    "softmax over one unit, by hand": ([nn.Linear(8, 1), nn.Softmax(1)], binary_by_hand, "single unit"),
    "logits in nll_loss": ([nn.Linear(8, 3)], F.nll_loss, "put log_softmax before it"),
    "probabilities in nll_loss": ([nn.Linear(8, 3), nn.Softmax(1)], F.nll_loss, "put log_softmax before it"),
    "log of relu": ([nn.Linear(8, 3), nn.ReLU()], by_hand, "-inf wherever the ReLU is 0"),
    "one class": ([nn.Linear(8, 1)], lambda output, y: F.cross_entropy(output, 0 * y), "single class"),
    "sigmoid for targets up to 100": ([nn.Linear(8, 1), nn.Sigmoid()], numbers(F.mse_loss, 50.0), "linear output"),
    "tanh by hand": (
        [nn.Linear(8, 1), nn.Tanh()], numbers(lambda p, y: (p - y).square().mean(), 50.0), "linear output",
    ),
    "relu for targets below 0": ([nn.Linear(8, 1), nn.ReLU()], numbers(F.l1_loss, 1.0, -1.0), "what relu can reach"),
    "shapes": ([nn.Linear(8, 1)], lambda output, y: F.mse_loss(output, y.float()), r"(16, 1) and (16,)"),
}  # fmt: skip
SOUND: dict[str, tuple[list[nn.Module], Loss]] = {
    "logits": ([nn.Linear(8, 3)], F.cross_entropy),
    "log-probabilities": ([nn.Linear(8, 3), nn.LogSoftmax(1)], F.nll_loss),
    "probabilities by hand": ([nn.Linear(8, 3), nn.Softmax(1)], by_hand),
    "one probability by hand": ([nn.Linear(8, 1), nn.Sigmoid()], binary_by_hand),
    "one probability": ([nn.Linear(8, 1), nn.Sigmoid()], binary(F.binary_cross_entropy)),
    "one logit": ([nn.Linear(8, 1)], binary(F.binary_cross_entropy_with_logits)),
    "one-hot": ([nn.Linear(8, 3), nn.Softmax(1)], lambda output, y: F.mse_loss(output, F.one_hot(y, 3).float())),
    "regression": ([nn.Linear(8, 1)], numbers(F.mse_loss, 50.0)),
    "relu for counts": ([nn.Linear(8, 1), nn.ReLU()], numbers(F.mse_loss)),
    "softplus": ([nn.Linear(8, 1), nn.Softplus()], numbers(F.smooth_l1_loss)),
}


def mistakes(modules: list[nn.Module], loss: Loss) -> list[str]:
    """What a guard says of mistakes in a run of a few steps."""

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(*modules)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    guard = GradGuard("monitor")
    fit(Module(), guard, data=loader(20))
    return [i.detail for i in guard.incidents if i.kind == "loss_mismatch"]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_once_and_stays_open(name: str) -> None:
    modules, loss, words = MISTAKES[name]
    (detail,) = mistakes(modules, loss)
    assert words in detail


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_said_of_a_sound_program(name: str) -> None:
    assert mistakes(*SOUND[name]) == []


def stats(step: int, *calls: LossCall) -> GradStats:
    return GradStats.of({"a": 1.0}, step=step, activation_stats=ActivationStats(losses=calls))


def test_a_mistake_is_repeated_until_a_sample_does_not_show_it() -> None:
    detector, wrong = LossMismatch(), LossCall("cross_entropy", "softmax", 3)
    state, found = detector.update(detector.init(), stats(0, wrong, wrong))
    assert found[0].detail.count("leave the softmax out") == 1
    state, found = detector.update(state, GradStats.of({"a": 1.0}, step=1))
    assert len(found) == 1
    state, found = detector.update(state, stats(2, LossCall("cross_entropy", "", 3)))
    assert found == ()


@pytest.mark.parametrize(("outside", "said"), [(0.04, False), (0.06, True)])
def test_few_targets_beyond_the_bounds_are_no_mistake(outside: float, said: bool) -> None:
    assert bool(LossMismatch().mistake(LossCall("mse_loss", "tanh", outside=outside))) == said


def test_targets_are_called_constant_after_three_batches_and_never_after_another() -> None:
    detector, other = ConstantTarget(), LossCall("cross_entropy")
    state, found = detector.init(), []
    for step, constant in enumerate([0, 1, 1, 0]):
        state, now = detector.update(state, stats(step, LossCall("cross_entropy", constant=constant)))
        found.append(len(now))
    assert found == [0, 0, 1, 1]
    state, now = detector.update(state, stats(4, other))
    for step in range(5, 9):
        state, now = detector.update(state, stats(step, LossCall("cross_entropy", constant=step)))
        assert now == ()


def test_a_rare_class_is_no_mistake_before_twenty_batches() -> None:
    detector = ConstantTarget()
    state, found = detector.init(), []
    for step in range(21):
        state, now = detector.update(state, stats(step, LossCall("cross_entropy", constant=0)))
        found.append(len(now))
    assert found == [0] * 19 + [1, 1]


def test_a_loss_without_a_gradient_is_a_metric_and_is_not_looked_at() -> None:
    watch = LossWatch()
    watch.see("mse_loss", (torch.zeros(3), torch.ones(3)), {}, None)
    watch.see("mse_loss", (torch.zeros(3, requires_grad=True), torch.ones(3)), {}, None)
    assert [call.target_scale for call in watch.calls] == [1.0]


def test_only_the_latest_outputs_are_remembered() -> None:
    watch, first = LossWatch(), torch.rand(3, requires_grad=True)
    watch.activation("sigmoid", first)
    for _ in range(64):
        watch.activation("relu", torch.ones(2))
    watch.see("mse_loss", (first, torch.full((3,), 9.0)), {}, None)
    assert watch.calls[0].after == ""
