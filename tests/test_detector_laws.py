"""Laws that hold for every exported detector."""

from __future__ import annotations

import ast
import copy
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import Capture, Faults, Net, fit

from lightning_gradguard import GradGuard, detectors, remedies
from lightning_gradguard.collect.activation_stats import ActivationRecord, ActivationStats
from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.collect.loss_trend import INITIAL, follow, judge
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors import DETECTORS, AbstractDetector, State, diagnose
from lightning_gradguard.detectors.activation_detector import ActivationDetector
from lightning_gradguard.findings import Finding
from lightning_gradguard.modules.activations import Traits
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.remedies import Rollback
from lightning_gradguard.tensors.checkpointing import from_checkpoint, to_checkpoint
from lightning_gradguard.tensors.norms import Floats

EVERY = [
    cls()
    for name in detectors.__all__
    if isinstance(cls := getattr(detectors, name), type)
    and issubclass(cls, AbstractDetector)
    and cls is not AbstractDetector
]
ids = [type(d).__name__ for d in EVERY]

weird = st.one_of(st.floats(1e-12, 1e12), st.just(0.0), st.just(math.nan), st.just(math.inf))
seeds = st.one_of(st.none(), st.integers(0, 99))  # of the samples that come with a step
streams = st.lists(
    st.tuples(st.lists(weird, min_size=4, max_size=4), st.one_of(st.none(), weird), seeds), min_size=1, max_size=60
)


TRAITS = {"relu": Traits(one_sided=True), "tanh": Traits(saturating=True), "abs": Traits()}


def sampled(seed: int) -> dict[str, Any]:
    """Weights, updates, buffers and activation statistics of any size, also zero and not finite."""
    rng = np.random.default_rng(seed)

    def draw(count: int = 4) -> Floats:
        return rng.choice([0.0, 1e-12, 1e-3, 0.1, 1.0, 50.0, 1e12, math.inf, math.nan], count)

    kinds = rng.choice(list(TRAITS), 3).tolist()
    records = tuple(
        ActivationRecord(layer, kind, float(rng.random()), rng.random(8) < 0.8, 16, traits=TRAITS[kind])
        for layer, kind in zip("abd", kinds, strict=True)
    )
    activation_stats = ActivationStats(
        layers=tuple("abcd"), output_rms=draw(), spread=draw(), last_input_spread=float(draw(1)[0]), grad_rms=draw(),
        identical_units=rng.choice([0.0, 1.0], 4), activations=records, input_mean=draw(), input_std=draw(),
        time={"c": 10.0 ** rng.uniform(-8, 8, 12), "d": draw(12)},
    )  # fmt: skip
    return dict(
        param_norm=draw(), update_ratio=draw(), trainable=rng.random(4) < 0.8, buffers=("mean", "var"),
        buffer_norm=draw(2), activation_stats=activation_stats, batch_stats=BatchStats(draw()),
    )  # fmt: skip


def followed(stream: Iterable[GradStats]) -> list[GradStats]:
    """The steps with their loss trend."""
    steps, state = [], INITIAL
    for stats in stream:
        state = follow(state, stats.loss, stats.lr, stats.total_steps, stats.activation_stats)
        steps.append(replace(stats, loss_trend=judge(state)))
    return steps


def stats_of(stream: Any) -> list[GradStats]:
    return followed(
        GradStats.of(
            dict(zip("abcd", norms, strict=True)), step=step, loss=loss, lr=0.1, total_steps=60,
            **(sampled(seed) if seed is not None else {}),
        )
        for step, (norms, loss, seed) in enumerate(stream)
    )  # fmt: skip


def healthy_stream(steps: int = 300, seed: int = 0) -> list[GradStats]:
    rng = np.random.default_rng(seed)
    return [
        GradStats.of(
            {f"net.{i}": float(np.exp(rng.normal(0, 0.5))) for i in range(5)},
            step=step, loss=float(2.3 * np.exp(-step / 100) + 0.1 * rng.random()), lr=1e-3,
            buffers=("bn.running_var",), buffer_norm=np.array([1 + 0.1 * rng.random()]),
            **(dict(param_norm=np.ones(5), update_ratio=np.full(5, 1e-3)) if step % 50 == 1 else {}),
        )
        for step in range(steps)
    ]  # fmt: skip


def run(detector: AbstractDetector, stream: list[GradStats], state: Any = None) -> tuple[Any, list[Any]]:
    state = detector.init() if state is None else state
    found = []
    for stats in followed(stream):
        state, findings = detector.update(state, stats)
        found.append(findings)
    return state, found


def plain(value: Any) -> Any:
    return repr(to_checkpoint(value))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("detector", EVERY, ids=ids)
@settings(max_examples=25, deadline=None)
@given(stream=streams)
def test_pure_deterministic_and_never_raises_or_warns(detector: AbstractDetector, stream: Any) -> None:
    state = detector.init()
    for stats in stats_of(stream):
        assert isinstance(state, dict)
        before = copy.deepcopy(state)
        after, findings = detector.update(state, stats)
        assert plain(state) == plain(before), "update changed the state it was given"
        again, same = detector.update(state, stats)
        assert (plain(again), repr(same)) == (plain(after), repr(findings))
        assert all(f.kind == detector.kind and f.step == stats.step and f.detail for f in findings)
        state = after


@pytest.mark.parametrize("detector", EVERY, ids=ids)
@settings(max_examples=15, deadline=None)
@given(stream=streams, cut=st.integers(0, 60))
def test_resumes_exactly_through_a_checkpoint(detector: AbstractDetector, stream: Any, cut: int) -> None:
    steps = stats_of(stream)
    half, _ = run(detector, steps[:cut])
    file = io.BytesIO()
    torch.save(to_checkpoint(half), file)
    file.seek(0)
    resumed = from_checkpoint(torch.load(file, weights_only=True))
    assert repr(run(detector, steps[cut:], resumed)[1]) == repr(run(detector, steps[cut:], half)[1])


@pytest.mark.parametrize(
    "detector",
    [d for d in EVERY if d.only_on_extra_stats],
    ids=[type(d).__name__ for d in EVERY if d.only_on_extra_stats],
)
@settings(max_examples=25, deadline=None)
@given(stream=streams)
def test_steps_without_extra_stats_can_be_skipped(detector: AbstractDetector, stream: Any) -> None:
    state = detector.init()
    for stats in stats_of(stream):
        after, findings = detector.update(state, stats)
        assert stats.has_extra_stats or (plain(after), findings) == (plain(state), ())
        state = after


@pytest.mark.parametrize("detector", EVERY, ids=ids)
@pytest.mark.parametrize("seed", range(3))
def test_silent_on_a_healthy_stream(detector: AbstractDetector, seed: int) -> None:
    assert not any(run(detector, healthy_stream(seed=seed))[1])


@pytest.mark.parametrize("detector", EVERY, ids=ids)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_loss_does_not_matter(detector: AbstractDetector, scale: float) -> None:
    stream = healthy_stream()
    stream[200:220] = [replace(s, grad_norm=s.grad_norm * 1e5, loss=s.loss * 1e3) for s in stream[200:220]]
    scaled = [replace(s, grad_norm=s.grad_norm * scale, loss=s.loss * scale) for s in stream]
    steps = [[(f.kind, f.step, f.layers) for f in found] for found in run(detector, stream)[1]]
    assert steps == [[(f.kind, f.step, f.layers) for f in found] for found in run(detector, scaled)[1]]


@pytest.mark.parametrize("detector", EVERY, ids=ids)
def test_a_change_of_layers_causes_no_finding(detector: AbstractDetector) -> None:
    other = [GradStats.of({"x": 1.0, "y": 2.0}, step=300 + i, loss=0.2, lr=1e-3) for i in range(50)]
    assert not any(run(detector, healthy_stream() + other)[1])


def test_flagged_steps_never_enter_a_baseline() -> None:
    stream = healthy_stream(200)
    for at in (100, 120, 140, 160):  # four spikes, every one as high as the first
        stream[at] = replace(stream[at], grad_norm=stream[at].grad_norm * 1e5, loss=1e5)
    states = {d.name: d.init() for d in DETECTORS}
    kinds: dict[int, set[str]] = {}
    for stats in followed(stream):
        states, findings = diagnose(DETECTORS, states, stats)
        if findings:
            kinds[stats.step] = {f.kind for f in findings}
    assert kinds == {at: {"loss_spike", "exploding"} for at in (100, 120, 140, 160)}


def test_a_spike_during_warmup_is_reported_and_does_not_become_the_record() -> None:
    stream = healthy_stream(100)
    stream[7] = replace(stream[7], grad_norm=stream[7].grad_norm * 1e8, loss=1e8)
    stream[80] = replace(stream[80], grad_norm=stream[80].grad_norm * 1e5, loss=1e5)
    states = {d.name: d.init() for d in DETECTORS}
    flagged = []
    for stats in followed(stream):
        states, findings = diagnose(DETECTORS, states, stats)
        flagged += [(f.step, f.kind) for f in findings]
    assert sorted(flagged) == [(7, "exploding"), (80, "exploding"), (80, "loss_spike")]


def test_a_lasting_new_level_with_an_ordinary_loss_is_accepted() -> None:
    detector = detectors.Exploding()
    stream = [replace(s, loss=1.0) for s in healthy_stream(400)]
    stream[100:] = [replace(s, grad_norm=s.grad_norm * 1e5) for s in stream[100:]]
    flagged = [f[0].step for f in run(detector, stream)[1] if f]
    assert flagged == list(range(100, 100 + detector.patience - 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: detectors.Exploding(factor=0.5), r"`Exploding\(factor=...\)` must be above 1, got 0.5."),
        (lambda: detectors.Vanishing(patience=0), r"`Vanishing\(patience=...\)` must be positive, got 0."),
        (lambda: detectors.Stalled(converged=1.0), r"`Stalled\(converged=...\)` must be in \[0, 1\), got 1.0."),
        (lambda: detectors.LossSpike(factor=1), r"`LossSpike\(factor=...\)` must be above 1, got 1."),
    ],
)
def test_invalid_options_are_refused_with_call_rule_and_value(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("package", [detectors, remedies])
def test_every_class_of_a_file_is_exported(package: Any) -> None:
    for file in Path(package.__file__).parent.glob("*.py"):
        if file.stem in ("__init__", "base", "activation_detector"):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        assert classes, f"{file.name} holds no class"
        assert classes <= set(package.__all__), f"{file.name} is not exported"


def test_the_guard_runs_every_detector() -> None:
    assert {type(detector) for detector in DETECTORS} == {type(detector) for detector in EVERY}
    assert len(DETECTORS) == len(EVERY)


@dataclass(frozen=True)
class Counter(AbstractDetector):
    """Reports on every step how many it has counted."""

    kind: ClassVar[str] = "counted"
    name: str = "counter"

    def init(self) -> State:
        return {"steps": 0}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        steps = state["steps"] + 1
        return {"steps": steps}, (Finding(self.kind, stats.step, (), steps, detail=f"{steps} steps"),)


@dataclass(frozen=True)
class TakenSteps(Counter):
    """Counts only the steps that were taken."""

    ignore_cancelled: ClassVar[bool] = True
    kind: ClassVar[str] = "taken"
    name: str = "taken"


def test_a_cancelled_step_leaves_no_trace_in_a_detector_that_ignores_it() -> None:
    guard = GradGuard("protect", [detectors.NonFinite(), Counter(), TakenSteps()])
    fit(Net(), Faults({4: math.nan, 7: math.nan}), guard, max_steps=10)
    assert {i.kind: i.detail for i in guard.incidents if i.kind in ("counted", "taken")} == {
        "counted": "10 steps", "taken": "8 steps",
    }  # fmt: skip


@pytest.mark.parametrize("detector", EVERY, ids=ids)
def test_which_detectors_ignore_cancelled_steps_and_ordinary_ones(detector: AbstractDetector) -> None:
    follows_the_loss_trend = isinstance(detector, ActivationDetector | detectors.NoProgress | detectors.Diverging)
    judges_steps_taken = isinstance(detector, detectors.EarlyOutlier | detectors.InvalidLR)
    assert detector.ignore_cancelled == (follows_the_loss_trend or judges_steps_taken)
    sparing = detectors.NonFinite | detectors.NonFiniteState | detectors.Overshooting
    only_on_extra_stats = isinstance(detector, sparing) or follows_the_loss_trend
    assert detector.only_on_extra_stats == only_on_extra_stats


@dataclass(frozen=True)
class Holding(Counter):
    """Asks for no snapshots from its 13th step on."""

    name: str = "holding"

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        steps = state["steps"] + 1
        return {"steps": steps, "hold_snapshots": steps > 12}, ()


@pytest.mark.parametrize(("detector", "snapshot"), [(Holding(), 10), (Counter(), 20)])
def test_no_snapshot_is_taken_while_a_detector_holds_them(detector: AbstractDetector, snapshot: int) -> None:
    policy = Policy({"nonfinite": [Rollback()]})
    guard = GradGuard(policy, [detectors.NonFinite(), detector], snapshot_every=5)
    reports = Capture(lambda *_: guard.last_report)
    fit(Net(), Faults({22: math.nan}), guard, reports, max_steps=23)
    assert [str(action) for action in reports.seen[-1].actions] == [f"rolled back to step {snapshot}"]
