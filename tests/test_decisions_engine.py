"""What the engine passes on from step to step, with a source and an actor that only say what they are told."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from lightning_gradguard import GradStats
from lightning_gradguard.detectors import AbstractDetector, State
from lightning_gradguard.engine import StepEngine
from lightning_gradguard.findings import KEPT, STARTED, Action, Finding, Origin, Response, StepOutcome, TrialEvent
from lightning_gradguard.policy import Policy
from lightning_gradguard.remedies import ReduceLR, SkipStep

STATS = GradStats.of({"a": 1.0})


@dataclass
class Source:
    """A run whose measurements are the same at every step unless a test changes them."""

    measured: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    broken: tuple[str, ...] = ()
    again: tuple[float, float] | None = None
    rechecked: int = 0
    losses: tuple[float, float] | None = None
    compared: int = 0

    def collect(self, *inputs: Any) -> dict[str, Any]:
        plain = {"layers": STATS.layers, "grad_norm": STATS.grad_norm, "loss": 1.0, "lr": 0.1, "activation_stats": None}
        return {**plain, **self.measured}

    def origin(self) -> Origin:
        return Origin("2026-01-02T03:04:05+00:00", 1, 7)

    def batch_stats(self) -> None:
        self.asked += 1

    def nonfinite_state(self) -> tuple[str, ...]:
        return self.broken

    def recheck(self) -> tuple[float, float] | None:
        self.rechecked += 1
        return self.again

    def compare(self, best: bool = False) -> tuple[float, float] | None:
        self.compared += 1
        return self.losses


@dataclass
class Actor:
    """Answers every step with the next of the given outcomes; after the last one nothing happens any more."""

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    in_trial: bool = False
    idle: bool = False  # whether no remedy does anything
    seen: list[tuple[tuple[str, ...], bool]] = field(default_factory=list)

    held_snapshots: Sequence[int] | None = None
    confirmed: int = 0
    snapshot: int | None = None

    def snapshot_is_due(self, step: int) -> bool:
        return True

    def confirm_weights(self) -> None:
        self.confirmed += 1

    def put_back(self, best: bool) -> int | None:
        return self.snapshot

    def act(
        self, stats: GradStats, chosen: Sequence[tuple[Finding, Any]], sound: bool, loss: float = math.nan
    ) -> StepOutcome:
        self.seen.append((tuple(finding.kind for finding, _ in chosen), sound))
        responses = tuple(
            Response(finding.kind, actions=tuple(Action(r.name, "did it") for r in (() if self.idle else rung)))
            for finding, rung in chosen
        )
        return StepOutcome(responses=responses, **(self.outcomes.pop(0) if self.outcomes else {}))


@dataclass(frozen=True)
class Counter(AbstractDetector):
    """Counts steps; reports at the given ones."""

    kind: ClassVar[str] = "counted"
    at: tuple[int, ...] = ()
    name: str = "counter"
    fields: tuple[tuple[str, Any], ...] = ()

    def init(self) -> State:
        return {"steps": 0, **dict(self.fields)}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        found = (Finding(self.kind, stats.step),) if stats.step in self.at else ()
        return {**state, "steps": state["steps"] + 1}, found


@dataclass(frozen=True)
class Forgetting(Counter):
    """The same, but a cancelled step leaves no trace."""

    ignore_cancelled: ClassVar[bool] = True
    name: str = "forgetting"


@dataclass(frozen=True)
class Asking(Counter):
    """The same, but asks for the samples at the given steps instead of reporting; it may raise there."""

    asks_for_batch_stats: ClassVar[bool] = True
    name: str = "asking"

    def wants_batch_stats(self, state: State, stats: GradStats) -> bool:
        if stats.step in self.at and state.get("raises"):
            raise ZeroDivisionError("asked to raise")
        return stats.step in self.at

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        return state, ()


def engine(*detectors: AbstractDetector, outcomes: Sequence[dict[str, Any]] = (), **settings: Any) -> StepEngine:
    settings = {"policy": Policy({"counted": [SkipStep(), ReduceLR()]}), **settings}
    policy = settings.pop("policy")
    return StepEngine(Source(), detectors or (Counter(),), policy, Actor(list(outcomes)), **settings)


@pytest.mark.parametrize("hold", [True, False])
def test_no_snapshot_is_taken_while_a_detector_holds_them(hold: bool) -> None:
    run = engine(Counter(fields=(("hold_snapshots", hold),)), Counter(name="other"))
    run.step()
    assert run.actor.seen == [((), not hold)]


def test_every_step_is_counted_and_its_findings_are_chosen_answered_and_reported() -> None:
    run = engine(Counter(at=(1, 2)))
    reports = [run.step() for _ in range(4)]
    assert [report.stats.step for report in reports] == [0, 1, 2, 3]
    assert [len(report.findings) for report in reports] == [0, 1, 1, 0]
    assert [[action.name for action in report.actions] for report in reports] == [[], ["SkipStep"], ["ReduceLR"], []]
    assert [kinds for kinds, _ in run.actor.seen] == [(), ("counted",), ("counted",), ()]
    assert (run.steps, run.states["counter"]["steps"]) == (4, 4)


def test_the_loss_trend_and_the_last_rollback_are_part_of_the_statistics() -> None:
    run = engine(outcomes=[{"restored": 0}, {}])
    run.source.measured = {"total_steps": 10}
    reports = [run.step() for _ in range(5)]
    assert [report.stats.restored for report in reports] == [False, True, False, False, False]
    assert [report.stats.loss_trend.blocks for report in reports] == [0, 0, 0, 1, 1]
    run = engine()
    run.source.measured = {"total_steps": 10, "multiple_optimizers": True}
    assert [run.step().stats.loss_trend.blocks for _ in range(5)] == [0] * 5


def test_a_cancelled_step_leaves_no_trace_in_the_loss_trend_and_in_detectors_that_say_so() -> None:
    run = engine(Counter(), Forgetting(), outcomes=[{}, {"cancelled": True}, {}])
    for _ in range(3):
        run.step()
    assert (run.states["counter"]["steps"], run.states["forgetting"]["steps"]) == (3, 2)
    assert run.states["loss_trend"]["first"][0] == 2


def test_no_detector_and_no_trend_follows_a_trial() -> None:
    run = engine(Counter(at=(0, 1)))
    run.actor.in_trial = True
    run.actor.outcomes = [{"in_trial": True, "cancelled": True}]
    report = run.step()
    assert (report.findings, run.states["counter"]["steps"], run.states["loss_trend"]["first"][0]) == ((), 0, 0)
    assert (run.steps, report.stats.step) == (1, 0)
    run.actor.in_trial = False
    assert run.step().findings


# ---------------------------------------------------------------- rollbacks


def test_a_rollback_brings_the_detectors_back_to_where_the_snapshot_was_taken() -> None:
    take, back = {"snapshot": True}, {"restored": 1}
    run = engine(outcomes=[take, take, {}, take, back, {}])
    for _ in range(5):
        run.step()
    assert run.states["counter"]["steps"] == 2  # after step 1
    run.step()
    assert run.states["counter"]["steps"] == 3
    run.actor.outcomes = [{"restored": 3}]  # a snapshot of after the rollback's target is gone
    run.step()
    assert run.states["counter"]["steps"] == 4
    run.actor.outcomes = [{"restored": 0}]
    run.step()
    assert run.states["counter"]["steps"] == 1


@pytest.mark.parametrize(("kept", "steps"), [(1, 5), (2, 5), (3, 2), (4, 2)])
def test_as_many_states_are_kept_as_snapshots(kept: int, steps: int) -> None:
    take = {"snapshot": True}
    run = engine(outcomes=[{}, take, take, take, {"restored": 1}])
    for step in range(5):
        run.actor.held_snapshots = [at for at in (1, 2, 3) if at <= step][-kept:]
        run.step()
    assert run.states["counter"]["steps"] == steps


def test_after_another_model_detectors_start_over_and_earlier_states_are_gone() -> None:
    run = engine(outcomes=[{"snapshot": True}, {}, {"model_changed": True}, {"restored": 0}])
    for _ in range(3):
        run.step()
    assert run.states["counter"]["steps"] == 0
    assert (run.states["loss_trend"]["first"][0], run.states["loss_trend"]["decreased"]) == (3, False)
    run.step()
    assert run.states["counter"]["steps"] == 1


@pytest.mark.parametrize("improved", [True, False])
def test_detectors_learn_whether_the_other_model_is_better(improved: bool) -> None:
    event = TrialEvent(KEPT, "counted", "A", cause="cause", improved=improved)
    run = engine(outcomes=[{"model_changed": True, "trial": event}])
    run.step()
    assert run.states["loss_trend"]["decreased"] == improved


# ---------------------------------------------------------------- samples, limits, incidents


def test_samples_are_measured_when_one_detector_asks_for_them() -> None:
    run = engine(Counter(), Asking(at=(1,)))
    assert [run.step() and run.source.asked for _ in range(3)] == [0, 1, 1]
    run = engine(Asking(at=(0,)), Asking(at=(0,), name="second"))
    run.step()
    assert run.source.asked == 1


def test_the_largest_limit_in_force_is_reported() -> None:
    low, high = Counter(fields=(("limit", 2.0),)), Counter(name="other", fields=(("limit", 3.0),))
    assert engine(Counter(), low.__class__(name="low", fields=low.fields), high).step().limit == 3.0
    assert math.isnan(engine(Counter()).step().limit)


def test_an_incident_ends_after_three_times_the_patience() -> None:
    run = engine(Counter(at=(0,)), policy=Policy({"counted": [ReduceLR()] * 9}, patience=2))
    outcomes = [[incident.outcome for incident in (run.step(), run.changed)[1]] for _ in range(9)]
    assert outcomes == [["open"], [], ["resolved"], *[[]] * 6]
    run = engine(Counter(at=(0, 1, 2, 3, 4)), policy=Policy({"counted": [ReduceLR()] * 9}, patience=2))
    outcomes = [[incident.outcome for incident in (run.step(), run.changed)[1]] for _ in range(12)]
    assert outcomes == [["open"], *[[]] * 9, ["resolved"], []]


def test_a_remedy_that_did_nothing_is_no_action_of_the_incident() -> None:
    run = engine(Counter(at=(0, 1)))
    run.actor.idle = True
    run.step()
    assert [incident.actions for incident in run.changed] == [()]


def test_the_kind_that_stopped_the_run_is_unrecoverable() -> None:
    run = engine(Counter(at=(0,)), outcomes=[{"stopped_by": "counted", "stop_reason": "why"}])
    run.step()
    assert [incident.outcome for incident in run.changed] == ["unrecoverable"]


def test_a_trial_that_is_kept_is_a_finding_of_its_cause() -> None:
    run = engine(Counter(at=(0,)))
    run.step()
    run.actor.in_trial = True
    run.actor.outcomes = [
        {"in_trial": True, "trial": TrialEvent(STARTED, "counted", "A", cause="cause")},
        {"in_trial": True, "trial": TrialEvent(KEPT, "counted", "A", "did it", "cause", 0.5, 1.0)},
    ]
    assert run.step().findings == ()
    (finding,) = run.step().findings
    assert (finding.kind, finding.step, finding.value) == ("cause", 2, 0.5)
    assert finding.detail == "found by trial: kept A (did it): loss is 0.5, was 1"
    assert {incident.kind: incident.actions for incident in run.changed} == {
        "cause": ("A",), "counted": ("SkipStep", "A"),
    }  # fmt: skip


# ---------------------------------------------------------------- what raises, what is saved


def test_a_detector_that_raises_is_switched_off_and_the_others_go_on() -> None:
    broken = Asking(at=(1,), name="broken", fields=(("limit", 9.0), ("raises", True)))
    run = engine(broken, Asking(at=(2,)), Forgetting())
    run.step()
    with pytest.warns(UserWarning, match=r"Asking.*ZeroDivisionError"):
        report = run.step()
    assert [detector.name for detector in run.detectors] == ["asking", "forgetting"]
    assert math.isnan(report.limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.step()
    assert run.source.asked == 1


def test_a_restored_engine_goes_on_where_it_was() -> None:
    run, other = (engine(Counter(at=(1, 4)), outcomes=[{}, {"restored": 7}]) for _ in range(2))
    run.step(), run.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(run.state_dict())
    assert (other.steps, other.states["counter"]) == (2, {"steps": 2})
    assert (other.ladders, list(other.incidents.incidents)) == (run.ladders, ["counted"])
    assert other.step().stats.restored
    assert isinstance(other.ladders["counted"], tuple)


def test_a_part_of_a_checkpoint_that_cannot_be_used_begins_afresh() -> None:
    run = engine(Counter(at=(0,)))
    run.step()
    state = run.state_dict()
    other = engine(Counter(), Counter(name="new"))
    del state["ladders"]
    state["detectors"]["gone"] = {}
    with pytest.warns(UserWarning, match=r"'ladders'.*KeyError"):
        other.load_state_dict(state)
    assert (other.steps, other.ladders) == (1, {})
    assert [other.states[name]["steps"] for name in ("counter", "new")] == [1, 0]
