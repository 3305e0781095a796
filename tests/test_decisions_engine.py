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
from lightning_gradguard.findings import (
    EXHAUSTED,
    KEPT,
    UNDONE,
    Action,
    Finding,
    Origin,
    Response,
    StepOutcome,
    Trial,
    TrialEvent,
)  # fmt: skip
from lightning_gradguard.policy import Policy
from lightning_gradguard.remedies import ReduceLR, Rollback, SkipStep

STATS = GradStats.of({"a": 1.0})


@dataclass
class Source:
    """A run whose measurements are the same at every step unless a test changes them."""

    measured: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    broken: tuple[str, ...] = ()
    again: tuple[float, float] | None = None
    rechecked: int = 0
    losses: tuple[float, ...] | None = None
    compared: int = 0
    compared_with_best: int = 0
    compared_until: int | None = None

    def collect(self, *inputs: Any) -> dict[str, Any]:
        plain = {"layers": STATS.layers, "grad_norm": STATS.grad_norm, "loss": 1.0, "lr": 0.1, "activation_stats": None}
        return {**plain, **self.measured}

    def origin(self) -> Origin:
        return Origin("2026-01-02T03:04:05+00:00", 1, 7)

    def batch_stats(self) -> None:
        self.asked += 1

    def first_nonfinite(self) -> tuple[str, ...]:
        return ()

    def nonfinite_state(self) -> tuple[str, ...]:
        return self.broken

    def recheck(self) -> tuple[float, float] | None:
        self.rechecked += 1
        return self.again

    def compare(self, best: bool = False, until: int | None = None) -> tuple[float, ...] | None:
        self.compared += 1
        self.compared_with_best += best
        self.compared_until = until
        return self.losses


@dataclass
class Actor:
    """Answers every step with the next of the given outcomes; after the last one nothing happens any more."""

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    idle: bool = False  # whether no remedy does anything
    seen: list[tuple[tuple[str, ...], bool]] = field(default_factory=list)

    held_snapshots: Sequence[int] | None = None
    confirmed: int = 0
    suspected: int = 0
    suspected_since: int | None = None
    snapshot: int | None = None
    put_back_best: bool | None = None
    due: bool = True
    asked_at: list[int] = field(default_factory=list)
    told: list[float] = field(default_factory=list)

    @property
    def event(self) -> TrialEvent | None:
        return self.outcomes[0].get("trial") if self.outcomes else None

    def snapshot_is_due(self, step: int) -> bool:
        return self.due

    def ask_for_snapshot(self, step: int) -> None:
        self.asked_at.append(step)

    def confirm_weights(self) -> None:
        self.confirmed += 1

    def suspect_weights(self, since: int | None = None) -> None:
        self.suspected += 1
        self.suspected_since = since

    def put_back(self, best: bool) -> int | None:
        self.put_back_best = best
        return self.snapshot

    def act(
        self, stats: GradStats, chosen: Sequence[tuple[Finding, Any]], sound: bool, loss: float = math.nan
    ) -> StepOutcome:
        self.seen.append((tuple(finding.kind for finding, _ in chosen), sound))
        self.told.append(loss)
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
class Doubtful(Counter):
    """The same, but a finding says no more than that the loss is too high."""

    only_about_loss: ClassVar[bool] = True


@dataclass(frozen=True)
class Rechecking(Counter):
    """The same, but asks for the last healthy batch at the given steps, and may find that the weights are good."""

    asks_for_recheck: ClassVar[bool] = True
    good: bool = False

    def wants_recheck(self, state: State, stats: GradStats) -> bool:
        return stats.step in self.at

    def confirms_weights(self, state: State, stats: GradStats) -> bool:
        return self.good


@dataclass(frozen=True)
class Silent(Rechecking):
    """The same, but says that it never asks."""

    asks_for_recheck: ClassVar[bool] = False
    name: str = "silent"


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


def test_where_the_loss_stands_is_told_when_a_snapshot_is_due() -> None:
    run = engine(Counter(fields=(("hold_snapshots", False),)))
    for _ in range(6):
        run.step()
    run.actor.due = False
    run.step()
    assert run.actor.told[:4] + run.actor.told[6:] == pytest.approx([math.nan] * 5, nan_ok=True)
    assert run.actor.told[5] == 1.0
    assert [sound for _, sound in run.actor.seen] == [*[True] * 6, False]


@pytest.mark.parametrize(
    ("fields", "due", "asked"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"loss": math.nan}, False, True),
        ({"scaler_overflow": True, "grad_norm": STATS.grad_norm * math.inf}, False, False),
    ],
)
def test_weights_are_read_on_a_step_that_is_not_finite_and_before_a_snapshot(
    fields: dict[str, Any], due: bool, asked: bool
) -> None:
    run = engine()
    run.source.measured, run.source.broken, run.actor.due = fields, ("a",), due
    assert run.step().stats.nonfinite_state == ("a",) * asked


def test_the_losses_of_steps_that_were_taken_are_followed() -> None:
    follows: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"loss": 1.0}, {}),
        ({"loss": 2.0}, {"cancelled": True}),
        ({"loss": math.nan}, {}),
        ({"loss": None}, {}),
        ({"loss": 3.0, "multiple_optimizers": True}, {}),
        ({"loss": 5.0}, {}),
    ]
    run = engine()
    for measured, outcome in follows:
        run.source.measured, run.actor.outcomes = {**measured, "total_steps": 3000}, [outcome]
        run.step()
    assert run.states["loss_level"]["recent"] == [[0, 1.0], [5, 5.0]]
    assert (run.states["loss_level"]["lost"], run.states["loss_level"]["size"]) == (1, 200)


def test_losses_are_not_compared_after_the_objective_has_changed() -> None:
    run = engine(outcomes=[{}, {"cancelled": True}, {"objective_changed": True}])
    for _ in range(9):
        run.step()
    assert (run.states["loss_level"]["recent"], run.states["loss_level"]["lost"]) == ([], 1)


# ---------------------------------------------------------------- measured again


@pytest.mark.parametrize(
    ("fields", "broken", "good", "rechecked"),
    [
        ({}, (), False, 1),
        ({}, (), True, 1),
        ({"weights_known_good": True}, (), True, 0),
        ({"loss": math.nan}, ("a",), True, 0),
    ],
)
def test_the_last_healthy_batch_is_measured_again_unless_it_is_known_whether_the_weights_are_good(
    fields: dict[str, Any], broken: tuple[str, ...], good: bool, rechecked: int
) -> None:
    run = engine(Counter(), Rechecking(at=(1,), name="rechecking", good=good))
    run.source.again, run.source.broken = (1.0, 2.0), broken
    run.step()
    assert run.source.rechecked == 0
    run.source.measured = fields
    stats = run.step().stats
    assert run.source.rechecked == rechecked
    assert stats.recheck == ((1.0, 2.0) if rechecked else None)
    assert run.actor.confirmed == (rechecked and good)
    assert stats.weights_known_good is (bool(fields.get("weights_known_good")) or bool(rechecked and good))


def test_only_detectors_that_ask_are_asked_about_the_last_healthy_batch() -> None:
    run = engine(Silent(at=(0,), good=True), Rechecking(at=(1,)))
    assert [(run.step(), run.source.rechecked, run.actor.confirmed)[1:] for _ in range(2)] == [(0, 0), (1, 0)]


@dataclass(frozen=True)
class Comparing(Counter):
    """Wants a comparison with a snapshot at the given steps, and a snapshot at step 0."""

    asks_for_recheck: ClassVar[bool] = True

    def init(self) -> Any:
        return {"hold_snapshots": True}

    def wants_comparison(self, state: Any, stats: GradStats) -> bool:
        return stats.step in self.at

    def wants_snapshot(self, state: Any, stats: GradStats) -> bool:
        return stats.step == 0

    def update(self, state: Any, stats: GradStats) -> tuple[Any, tuple[Finding, ...]]:
        return state, ()


@pytest.mark.parametrize(
    ("losses", "suspected"), [((2.0, 1.0, 0.1), 1), ((1.0, 1.0, 0.1), 0), ((math.nan, 1.0, 0.1), 1), (None, 0)]
)
def test_weights_that_do_worse_than_a_snapshot_are_not_known_to_be_good(losses: Any, suspected: int) -> None:
    run = engine(Comparing(at=(1,)))
    run.source.losses, run.source.measured = losses, {"weights_known_good": True}
    reports = [run.step() for _ in range(3)]
    assert [report.stats.comparison for report in reports] == [None, losses, None]
    assert [report.stats.weights_known_good for report in reports] == [True, not suspected, True]
    assert (run.source.compared, run.actor.suspected) == (1, suspected)


@pytest.mark.parametrize(
    ("losses", "rung", "looked", "goes_back"),
    [
        ((2.0, 0.9, 1.0), (SkipStep(),), [9], [9]),
        ((2.0, 1.1, 0.1), (SkipStep(),), [9, 11], []),
        (None, (SkipStep(),), [9, 11], []),
        ((2.0, 0.9, 1.0), (SkipStep(), ReduceLR()), [], []),
    ],
)
def test_after_many_skips_in_one_incident_the_weights_from_before_it_are_looked_at(
    losses: Any, rung: Any, looked: list[int], goes_back: list[int]
) -> None:
    policy = Policy({"counted": [rung], "other": [Rollback()]})
    run = engine(Counter(at=tuple(range(1, 40, 2))), policy=policy)  # every other step
    run.source.losses, run.source.measured = losses, {"weights_known_good": True}
    compared, back = [], []
    for step in range(40):
        report = run.step()
        compared += [step] if report.stats.comparison is not None or run.source.compared > len(compared) else []
        back += [step] if [action.name for action in report.actions] == ["Rollback"] else []
        assert report.stats.weights_known_good == (step not in goes_back)
        if step in goes_back:
            assert (run.source.compared_until, run.actor.suspected_since) == (1, 1)
            run.source.losses = None
    assert (compared[: len(looked)], back) == (looked, goes_back)
    assert run.source.compared == len(looked) + bool(goes_back)
    assert run.actor.suspected == len(goes_back)


def test_without_rollbacks_or_after_another_comparison_nothing_is_looked_at() -> None:
    at = tuple(range(1, 40, 2))
    run = engine(Counter(at=at), policy=Policy({"counted": [SkipStep()]}))
    for _ in range(40):
        run.step()
    assert run.source.compared == 0
    run = engine(
        Counter(at=at),
        Comparing(at=(9,), name="comparing"),
        policy=Policy({"counted": [SkipStep()], "other": [Rollback()]}),
    )
    run.source.losses = 2.0, 0.9, 1.0
    assert [step for step in range(40) if [a.name for a in run.step().actions] == ["Rollback"]] == [11]


def test_a_step_compares_with_a_snapshot_once() -> None:
    run = engine(Comparing(at=(0,)), Doubtful(at=(0,)), policy=Policy({"counted": [Rollback()]}))
    run.source.losses = 2.0, 1.0, 0.1
    assert [action.name for action in run.step().actions] == ["Rollback"]
    assert run.source.compared == 1


@pytest.mark.parametrize(("broken", "asked_at"), [((), [0]), (("a",), [])])
def test_a_detector_gets_a_snapshot_of_the_weights_before_a_step(broken: Any, asked_at: list[int]) -> None:
    run = engine(Comparing())
    run.actor.due = False
    run.source.broken = broken
    run.step()
    run.actor.due = True
    run.step()
    assert run.actor.asked_at == asked_at
    run = engine(Comparing())
    assert [(run.step(), run.actor.seen[-1][1])[1] for _ in range(2)] == [True, False]  # although it holds the others


# ---------------------------------------------------------------- a high loss alone


def doubting(detector: AbstractDetector | None = None, *rungs: Any) -> StepEngine:
    every = Doubtful(at=tuple(range(99))) if detector is None else detector
    return engine(every, policy=Policy({"counted": [*(rungs or [Rollback()] * 3), ReduceLR()]}))


@pytest.mark.parametrize(
    ("losses", "returns"), [((1.0, 1.0), False), ((1.1, 1.0), True), ((math.nan, 1.0), True), (None, False)]
)
def test_a_high_loss_leads_back_only_where_it_is_shown_to_be_lower(losses: Any, returns: bool) -> None:
    run = doubting()
    run.source.losses = losses
    report = run.step()
    assert report.stats.comparison == losses
    assert [action.name for action in report.actions] == ["Rollback"] * returns
    assert [finding.kind for finding in report.findings] == ["counted"]
    assert run.ladders["counted"][:2] == (int(returns), 0)


def test_a_better_snapshot_makes_comparisons_frequent_again() -> None:
    run, looked = doubting(), []
    for step in range(24):
        run.source.losses = (2.0, 1.0) if step == 12 else (1.0, 1.0)
        before = run.source.compared
        run.step()
        looked += [step] * (run.source.compared - before)
    assert looked == [0, 4, 12, 13, 17]


def test_a_doubted_kind_stays_where_it_was_on_its_ladder() -> None:
    run = doubting(Doubtful(at=(0, 1, 3)))
    for losses in ((2.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)):
        run.source.losses = losses
        run.step()
    assert (run.ladders["counted"][:2], run.source.compared) == ((1, 0), 2)


@pytest.mark.parametrize(
    ("detector", "rung"), [(Doubtful(at=(0,)), ReduceLR()), (Counter(at=(0,)), Rollback()), (Doubtful(), Rollback())]
)
def test_only_a_way_back_for_a_high_loss_is_doubted(detector: AbstractDetector, rung: Any) -> None:
    run = doubting(detector, rung)
    run.source.losses = 1.0, 1.0
    report = run.step()
    assert run.source.compared == 0
    assert [action.name for action in report.actions] == [rung.name] * bool(report.findings)


def test_other_kinds_of_a_doubted_step_are_answered() -> None:
    @dataclass(frozen=True)
    class Other(Counter):
        kind: ClassVar[str] = "other"
        name: str = "other"

    policy = Policy({"counted": [Rollback()], "other": [SkipStep()]})
    run = engine(Doubtful(at=(0,)), Other(at=(0,)), policy=policy)
    run.source.losses = 1.0, 1.0
    assert [action.name for action in run.step().actions] == ["SkipStep"]


# ---------------------------------------------------------------- what leaves the run


def stood(*losses: float, policy: Policy | None = None, **fields: Any) -> StepEngine:
    """An engine whose losses were these, with a snapshot of step 3."""
    run = engine(policy=policy or Policy({"counted": [Rollback()]}), **fields)
    for loss in losses:
        run.source.measured = {"loss": loss, "total_steps": 200}
        run.actor.outcomes = [{"snapshot": run.steps == 3}]
        run.step()
    run.actor.snapshot = 3
    return run


RUINED = [2.0] * 20 + [0.5] * 30 + [1.6] * 20


@pytest.mark.parametrize("at_end", [True, False])
def test_weights_that_are_not_finite_do_not_leave_the_run(at_end: bool) -> None:
    run = stood(*[1.0] * 9)
    run.source.broken = ("a",)
    restoration = run.put_right(at_end)
    assert restoration is not None
    finding = restoration.finding
    assert (finding.kind, finding.step, finding.layers) == ("nonfinite_state", 8, ("a",))
    assert (restoration.step, restoration.at_end, run.actor.put_back_best) == (3, at_end, at_end)
    assert [(i.kind, i.actions, i.loss_before) for i in run.changed] == [("nonfinite_state", ("Rollback",), 1.0)]
    assert run.states["counter"]["steps"] == 4
    assert run.states["loss_level"]["lost"] == 6  # of steps 3 to 8
    assert run.step().stats.restored


def test_without_a_snapshot_ruined_weights_are_told() -> None:
    run = stood(*[1.0] * 9)
    run.source.broken, run.actor.snapshot = ("a",), None
    restoration = run.put_right()
    assert restoration is not None
    assert restoration.step is None
    assert [incident.actions for incident in run.changed] == [()]
    assert (run.states["counter"]["steps"], run.states["loss_level"]["lost"]) == (9, 0)
    assert not run.step().stats.restored


def test_without_rollbacks_nothing_is_put_back() -> None:
    run = stood(1.0, policy=Policy({"counted": [SkipStep()]}))
    run.source.broken = ("a",)
    assert run.put_right(at_end=True) is None


@pytest.mark.parametrize(
    ("losses", "at_end", "restored"),
    [(None, True, True), ((1.6, 0.5), True, True), ((0.5, 0.5), True, False), ((1.6, 0.5), False, False)],
)
def test_a_run_does_not_end_far_above_its_best(losses: Any, at_end: bool, restored: bool) -> None:
    run = stood(*RUINED)
    run.source.losses = losses
    restoration = run.put_right(at_end)
    assert (restoration is not None) == restored
    assert run.source.compared_with_best == run.source.compared == at_end
    if restoration is not None:
        finding = restoration.finding
        assert (finding.kind, finding.step, finding.value, finding.limit) == ("loss_increase", 69, 1.6, 0.5)
        assert finding.detail == "median loss at the end is 1.6, 0.5 at its best"


@pytest.mark.parametrize(
    ("compared", "restored"),  # of a run that has come from 2.0 to 0.5: a tenth of that are 0.15
    [
        ((0.66, 0.5, 0.07), True),
        ((0.64, 0.5, 0.01), False),
        ((0.66, 0.5, 0.09), False),  # not by two standard errors
        ((0.66, 0.5, math.inf), False),
        ((0.94, 0.8, 0.01), False),
        ((0.96, 0.8, 0.01), True),
        ((0.64, 0.3, 0.01), False),  # at its best the run had a higher loss than the last batches in the snapshot
        ((0.66, 0.3, 0.01), True),
        (None, False),
    ],
)
def test_a_run_does_not_end_on_what_its_last_steps_have_ruined(compared: Any, restored: bool) -> None:
    run = stood(*[2.0] * 20, *[0.5] * 50)
    run.source.losses = compared
    assert run.put_right() is None
    restoration = run.put_right(at_end=True)
    assert run.source.compared_with_best == run.source.compared == 1
    assert (restoration is not None) == restored
    if restoration is not None:
        now, then = compared[:2]
        finding = restoration.finding
        assert (finding.kind, finding.step, finding.value, finding.limit) == ("loss_increase", 69, now, then)
        detail = f"loss of the last batches is {now} with the final weights, {then} with those of a snapshot"
        assert (finding.detail, run.actor.put_back_best) == (detail, True)


def test_a_run_that_ends_near_its_best_is_left_alone() -> None:
    run = stood(*[2.0] * 20, *[0.5] * 30, *[1.2] * 20)
    assert run.put_right(at_end=True) is None


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


@pytest.mark.parametrize(("kind", "decreased", "steps"), [(KEPT, True, 1), (EXHAUSTED, False, 3)])
def test_detectors_start_over_before_the_first_step_with_what_an_experiment_has_shown(
    kind: str, decreased: bool, steps: int
) -> None:
    event = TrialEvent(kind, "counted", "A", cause="cause")
    run = engine(Counter(), outcomes=[{}, {}, {"trial": event}])
    for _ in range(3):
        run.step()
    assert run.states["loss_trend"]["decreased"] == decreased
    assert run.states["counter"]["steps"] == steps


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


def levels(*losses: float, at: Sequence[int], patience: int = 2) -> tuple[StepEngine, list[Any]]:
    """An engine after these losses, with findings at some steps, and the incidents that changed."""
    run = engine(Counter(at=tuple(at)), policy=Policy({"counted": [ReduceLR()] * 2}, patience=patience))
    changed = []
    for loss in losses:
        run.source.measured = {"loss": loss, "total_steps": 200}
        run.step()
        changed += run.changed
    return run, changed


#: Losses whose progress is 1.5 and whose scatter is 0, so that a level of 0.575 is back at 0.5.
LEARNED = [2.0] * 20 + [0.5] * 40


@pytest.mark.parametrize(("level", "ended"), [(0.575, True), (0.58, False)])
def test_an_incident_ends_where_the_loss_since_it_is_back(level: float, ended: bool) -> None:
    run, changed = levels(*LEARNED, *[level] * 12, at=[60])
    assert [incident.outcome for incident in changed] == ["open", *["resolved"] * ended]
    assert changed[0].loss_before == 0.5
    assert [incident.outcome for incident in run.close_incidents()] == ["degraded"] * (not ended)


def test_an_incident_is_compared_with_the_best_level_before_it() -> None:
    _, changed = levels(*LEARNED, *[1.0] * 20, 1.0, at=[80])
    assert [incident.loss_before for incident in changed] == [0.5]
    _, changed = levels(*[2.0] * 9, at=[8])  # no level yet
    assert [incident.loss_before for incident in changed] == [2.0]


def test_an_incident_lasts_until_five_losses_tell_of_it() -> None:
    _, changed = levels(*LEARNED, *[0.5] * 5, at=[60])
    assert [incident.outcome for incident in changed] == ["open"]
    _, changed = levels(*LEARNED, *[0.5] * 6, at=[60])
    assert [incident.outcome for incident in changed] == ["open", "resolved"]


@pytest.mark.parametrize("level", [0.5, 2.0])
def test_an_incident_whose_symptom_lasts_is_open_wherever_the_loss_is(level: float) -> None:
    run, _ = levels(*LEARNED, *[level] * 30, at=range(60, 90))
    assert [incident.outcome for incident in run.close_incidents()] == ["open"]
    assert [incident.loss_after for incident in run.changed] == [level]


def test_an_incident_whose_symptom_ended_is_resolved_at_the_end_if_the_loss_is_at_its_best() -> None:
    run, changed = levels(*LEARNED, *[0.5] * 4, at=[60])
    assert [incident.outcome for incident in changed] == ["open"]
    assert [incident.outcome for incident in run.close_incidents()] == ["resolved"]
    run, _ = levels(*LEARNED, *[0.5] * 4, at=[60])
    run._add_lost(99)  # a run that lost more than a fifth of its steps
    assert [incident.outcome for incident in run.close_incidents()] == ["degraded"]


def test_a_remedy_that_did_nothing_is_no_action_of_the_incident() -> None:
    run = engine(Counter(at=(0, 1)))
    run.actor.idle = True
    run.step()
    assert [incident.actions for incident in run.changed] == [()]


def test_the_kind_that_stopped_the_run_is_unrecoverable() -> None:
    run = engine(Counter(at=(0,)), outcomes=[{"stopped_by": "counted", "stop_reason": "why"}])
    run.step()
    assert [incident.outcome for incident in run.changed] == ["unrecoverable"]


def test_what_an_experiment_has_shown_is_a_finding_of_its_cause() -> None:
    run = engine(Counter(at=(0, 1)))
    run.step()
    trials = (Trial("A", KEPT, 0.5), Trial("B", UNDONE, 0.9))
    event = TrialEvent(KEPT, "counted", "A", "did it", "cause", 0.5, 1.0, trials)
    run.actor.outcomes = [{"trial": event}]
    finding, counted = run.step().findings
    assert (finding.kind, finding.step, finding.value, counted.kind) == ("cause", 1, 0.5, "counted")
    assert finding.detail.startswith("found by an experiment: kept A (did it): beside the run its loss was 0.5")
    assert {incident.kind: incident.actions for incident in run.changed} == {
        "cause": ("A",), "counted": ("SkipStep", "ReduceLR", "A"),
    }  # fmt: skip
    assert run.incidents.incidents["counted"].trials == trials


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


@pytest.mark.parametrize("question", ["wants_recheck", "confirms_weights"])
def test_a_detector_that_raises_when_asked_about_the_last_healthy_batch_is_switched_off(
    question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(detector: Rechecking, state: State, stats: GradStats) -> bool:
        raise ZeroDivisionError("asked to raise")

    monkeypatch.setattr(Rechecking, question, fails)
    run = engine(Rechecking(at=(0,)), Counter(name="other"))
    with pytest.warns(UserWarning, match=r"Rechecking.*ZeroDivisionError"):
        run.step()
    assert [detector.name for detector in run.detectors] == ["other"]


def test_a_restored_engine_makes_comparisons_as_rarely() -> None:
    run, other = doubting(), doubting()
    run.source.losses = other.source.losses = 1.0, 1.0
    for _ in range(6):
        run.step()
    other.load_state_dict(run.state_dict())
    for _ in range(23):
        other.step()
    assert other.source.compared == 2  # at steps 12 and 28


def test_a_restored_engine_knows_whose_fault_the_last_finding_was() -> None:
    run, other = (engine(Counter(at=(0,)), policy=Policy({"counted": [ReduceLR()] * 3})) for _ in range(2))
    run.source.measured = {"weights_known_good": True}
    run.step()
    other.load_state_dict(run.state_dict())
    assert other.ladders["counted"] == (1, 0, True)


def test_a_kind_with_another_ladder_begins_at_its_first_rung() -> None:
    run, other = engine(Counter(at=(0,))), engine(Counter(), policy=Policy({"counted": [ReduceLR()]}))
    run.step()
    with pytest.warns(UserWarning, match="starts at the first rung for counted: their ladders are not"):
        other.load_state_dict(run.state_dict())
    assert other.ladders == {}


def test_a_detector_whose_state_has_another_form_is_reset() -> None:
    run, other = engine(Counter()), engine(Counter(fields=(("new", 1), ("newer", 2))))
    run.step()
    with pytest.warns(UserWarning, match="'counter': its state in the checkpoint has no new, newer"):
        other.load_state_dict(run.state_dict())
    assert other.states["counter"] == {"steps": 0, "new": 1, "newer": 2}


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


def test_a_part_of_a_checkpoint_that_cannot_be_used_is_reset() -> None:
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
