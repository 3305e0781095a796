"""Groups of parameters: their norms, and a clip for each, against torch's own."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import Capture, Net, fit, same_state
from runs import files as csv_logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from lightning_gradguard import GradGuard
from lightning_gradguard.detectors import DETECTORS
from lightning_gradguard.policy import PROTECT
from lightning_gradguard.remedies import AGC, AbstractClip, AutoClip, PendingStep, ZClip
from lightning_gradguard.remedies.group_clip import as_clip
from lightning_gradguard.run_engine import RunContext, RunEngine

BODY, HEAD = r"^net\.0\.", r"^net\.3\."
GROUPS = {"body": BODY, "head": HEAD}


@dataclass(frozen=True)
class Fixed(AbstractClip):
    """Clips to a constant."""

    limit: float

    def init(self) -> dict[str, Any]:
        return {"steps": 0}

    def apply(self, state: dict[str, Any], step: PendingStep) -> dict[str, Any]:
        step.clip_to(self.limit)
        return {"steps": state["steps"] + 1}


class TwoPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.neck, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.neck(torch.tanh(self.body(x)))))
        return out


def engine_of(net: nn.Module, clip: Any, params: Any = None, fused: bool = False) -> RunEngine:
    chosen = list(net.parameters() if params is None else params)
    optimizer = torch.optim.AdamW(chosen, lr=1e-2, fused=True) if fused else torch.optim.SGD(chosen, lr=1e-2)
    clip = as_clip("clip", clip)
    context = RunContext(
        module=net, optimizer=optimizer, detectors=DETECTORS[:0], policy=PROTECT, clip=clip, fused_clip=fused
    )
    return RunEngine(context)


def batches(count: int, spike: int = -1) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(16, 4) * (30 if i == spike else 1 + i % 3) for i in range(count)]


def gradients(net: nn.Module, engine: RunEngine, x: Tensor) -> dict[str, Tensor]:
    """Of one step, as the optimizer uses them."""
    engine.optimizer.zero_grad()
    engine.begin_batch()
    loss = net(x).square().mean()
    loss.backward()
    engine.before_step([loss])
    kept = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    engine.optimizer.step()
    return kept


# -------------------------------------------------------------------- norms


def test_the_norm_of_each_group_is_logged(tmp_path: Path) -> None:
    guard = GradGuard(groups={**GROUPS, "biases of the norm": r"^net\.1\.bias$"})
    seen: list[dict[str, float]] = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            norm = torch.nn.utils.get_total_norm
            of = {name: [p.grad for n, p in pl_module.named_parameters() if n.startswith(f"net.{i}.")]
                  for name, i in {"body": 0, "head": 3}.items()}  # fmt: skip
            seen.append({name: float(norm(grads)) for name, grads in of.items()})
            seen[-1]["biases of the norm"] = float(pl_module.net[1].bias.grad.norm())

    fit(Net(), guard, Watch(), logger=csv_logger(tmp_path), log_every_n_steps=1)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    for name in seen[0]:
        logged = [float(r[f"gradguard/grad_norm/{name}"]) for r in rows if r.get(f"gradguard/grad_norm/{name}")]
        assert logged == pytest.approx([step[name] for step in seen], rel=1e-5)
    report = guard.last_report
    assert report is not None
    assert report.stats.group_norm == pytest.approx(seen[-1], rel=1e-5)


def test_tensorboard_has_a_curve_of_each_group(tmp_path: Path) -> None:
    fit(Net(), GradGuard(groups=GROUPS), logger=pl.loggers.TensorBoardLogger(tmp_path, "", ""), log_every_n_steps=5)
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    assert {"gradguard/grad_norm/body", "gradguard/grad_norm/head"} <= set(tags)


def test_a_group_whose_gradients_are_not_finite_is_a_gap() -> None:
    guard, norms = GradGuard("monitor", groups={"all": "."}), []
    scale = type("Break", (pl.Callback,), {
        "on_train_batch_start": lambda self, t, m, batch, i: batch[0].mul_(math.inf) if i == 3 else None,
    })()  # fmt: skip
    fit(Net(), scale, guard, Capture(lambda t, m: norms.append(guard.last_report.stats.group_norm["all"])), max_steps=4)
    assert [math.isnan(norm) for norm in norms] == [False, False, False, True]


@pytest.mark.parametrize("clip", [None, {BODY: Fixed(1e9), HEAD: AutoClip(percentile=99.999, window=1)}])
def test_a_run_that_is_not_clipped_is_the_same(clip: Any) -> None:
    nets = []
    for callbacks in ([], [GradGuard(groups=GROUPS, clip=clip)]):
        pl.seed_everything(0, verbose=False)
        nets.append(Net())
        fit(nets[-1], *callbacks)
    assert same_state(*nets)


# -------------------------------------------------------------------- clips


@pytest.mark.parametrize("fused", [False, True])
def test_each_group_is_clipped_as_torch_clips_it(fused: bool) -> None:
    net = TwoPart()
    engine = engine_of(net, {"^body": Fixed(0.01), r"^head.*weight": Fixed(0.02)}, fused=fused)
    for x in batches(5):
        plain = copy.deepcopy(net)
        plain.zero_grad()
        plain(x).square().mean().backward()
        nn.utils.clip_grad_norm_(plain.body.parameters(), 0.01)
        nn.utils.clip_grad_norm_([plain.head.weight], 0.02)
        for name, grad in gradients(net, engine, x).items():
            torch.testing.assert_close(grad, plain.get_parameter(name).grad, rtol=1e-3, atol=1e-7)


def test_unmatched_parameters_and_groups_below_their_limit_keep_their_gradients() -> None:
    net = TwoPart()
    engine, (x,) = engine_of(net, {"^body": Fixed(1e-3), "^head": Fixed(1e9)}), batches(1)
    plain = copy.deepcopy(net)
    plain(x).square().mean().backward()
    after = gradients(net, engine, x)
    same = {name for name, grad in after.items() if torch.equal(grad, plain.get_parameter(name).grad)}
    assert same == {"neck.weight", "neck.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("clip", [ZClip(warmup=5), AutoClip(percentile=50), AGC(clipping=1e-3)])
def test_a_group_is_clipped_as_if_it_were_alone(clip: AbstractClip) -> None:
    net, alone = TwoPart(), TwoPart()
    both = engine_of(net, {"^body": clip, "^neck": Fixed(1e9)})
    one = engine_of(alone, clip, alone.body.parameters())
    unclipped = TwoPart()
    differs = False
    for x in batches(30, spike=20):
        alone.load_state_dict(net.state_dict())
        unclipped.load_state_dict(net.state_dict())
        unclipped.zero_grad()
        unclipped(x).square().mean().backward()
        ours, reference = gradients(net, both, x), gradients(alone, one, x)
        differs |= not torch.equal(ours["body.weight"], unclipped.body.weight.grad)
        for name in ("body.weight", "body.bias"):
            torch.testing.assert_close(ours[name], reference[name])
        assert torch.equal(ours["head.weight"], unclipped.head.weight.grad)
    assert differs


def test_the_report_has_the_norm_after_clipping() -> None:
    net = TwoPart()
    engine, (x,) = engine_of(net, {"^body": Fixed(0.01), "^head": Fixed(0.02)}), batches(1)
    engine.begin_batch()
    loss = net(x).square().mean()
    loss.backward()
    before = nn.utils.get_total_norm([p.grad for p in net.parameters()])
    report = engine.before_step([loss])
    after = nn.utils.get_total_norm([p.grad for p in net.parameters()])
    assert report.outcome.clip_coefficient == pytest.approx(float(after / before), rel=1e-4)


# -------------------------------------------------------------------- checkpoints


def test_the_state_of_every_group_comes_back() -> None:
    clips = {"^body": ZClip(warmup=3), "^head": AutoClip()}
    net = TwoPart()
    first = engine_of(net, clips)
    xs = batches(12)
    for x in xs[:8]:
        gradients(net, first, x)
    other = copy.deepcopy(net)
    second = engine_of(other, clips)
    second.load_state_dict(first.state_dict())
    for x in xs[8:]:
        ours, theirs = gradients(net, first, x), gradients(other, second, x)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("clip", [{"^body": AutoClip()}, {"^neck": ZClip()}, ZClip()])
def test_the_state_of_another_clip_is_reset(clip: Any) -> None:
    net = TwoPart()
    state = engine_of(net, {"^body": ZClip()}).state_dict()
    with pytest.warns(UserWarning, match=r"clip.*it is of \^body: ZClip, the run has"):
        engine_of(net, clip).load_state_dict(state)


# -------------------------------------------------------------------- optimizers


class Two(Net):
    """Body and head have an optimizer each."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[i].parameters(), lr=0.01) for i in (0, 3)]


def test_each_optimizer_has_the_groups_of_its_parameters(tmp_path: Path) -> None:
    guard = GradGuard(groups=GROUPS, clip={BODY: AutoClip(), HEAD: ZClip()})
    fit(Two(), guard, logger=csv_logger(tmp_path), log_every_n_steps=1, max_steps=8)
    names = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    logged = sorted(name for name in names if name.startswith("gradguard") and "/grad_norm/" in name)
    assert logged == ["gradguard/0/grad_norm/body", "gradguard/1/grad_norm/head"]


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("groups", ["^net"], r"`GradGuard\(groups=...\)` must be a mapping of names to regular expressions, got"),
        ("groups", {"": "net"}, r"`GradGuard\(groups=...\)` must be a mapping of names to regular expressions, got"),
        ("groups", {"a": "("}, r"`GradGuard\(groups=...\)\['a'\]` must be a regular expression, got '\('"),
        ("groups", {"a": 3}, r"`GradGuard\(groups=...\)\['a'\]` must be a regular expression, got 3"),
        ("clip", {}, r"`GradGuard\(clip=...\)` must be a clip such as ZClip\(\), or a clip for each group, got {}"),
        ("clip", {"[": ZClip()}, r"`GradGuard\(clip=...\)\['\['\]` must be a regular expression, got '\['"),
        ("clip", {"a": 1.0}, r"`GradGuard\(clip=...\)\['a'\]` must be a clip such as ZClip\(\), got 1.0"),
    ],
)
def test_what_is_given_is_checked_at_once(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradGuard(**{field: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groups": {"x": "^encoder"}}, r"\(groups=...\)\['x'\]` must match the name of a parameter, such as 'net.0.w"),
        (
            {"groups": {"x": "net", "y": "net.0"}},
            r"\['y'\]` must match no parameter of another group, but 'net.0.weigh",
        ),
        ({"clip": {"^encoder": ZClip()}}, r"`GradGuard\(clip=...\)\['\^encoder'\]` must match the name of a parameter"),
        ({"clip": {"net": ZClip(), "3": ZClip()}}, r"\(clip=...\)\['3'\]` must match no parameter of another group"),
    ],
)
def test_before_training_every_group_has_parameters_of_its_own(given: Mapping[str, Any], message: str) -> None:
    net = Net()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=message):
        fit(net, GradGuard(**given))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
