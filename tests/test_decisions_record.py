"""What an incident keeps of its findings, actions and trials, when it is news, and how it ends."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict

import pytest

from lightning_gradguard import GradStats
from lightning_gradguard.findings import (
    EXHAUSTED,
    KEPT,
    OPEN,
    RESOLVED,
    UNDONE,
    UNRECOVERABLE,
    Action,
    Finding,
    Incident,
    Origin,
    Response,
    StepOutcome,
    StepReport,
    Trial,
    TrialEvent,
    layers_of,
    shortlist,
)
from lightning_gradguard.record.incident_tracker import IncidentTracker


def incident(*values: float, actions: tuple[tuple[str, ...], ...] = ()) -> Incident:
    """An incident with a finding of each value, and each finding's actions."""
    taken = [*actions, *[()] * (len(values) - len(actions))]
    first, *rest = (Finding("a", step, (), value, -value, f"value is {value}") for step, value in enumerate(values))
    found = Incident.start(first, taken[0])
    for finding, names in zip(rest, taken[1:], strict=True):
        found = found.extended(finding, names)
    return found


# ---------------------------------------------------------------- an incident


@pytest.mark.parametrize(
    ("values", "worst"),
    [((1.0, 2.0), 2.0), ((2.0, 1.0), 2.0), ((1.0, 3.0, 2.0), 3.0), ((math.nan, 1.0), 1.0), ((1.0, math.nan), 1.0)],
)
def test_the_worst_finding_gives_value_limit_and_clause(values: tuple[float, ...], worst: float) -> None:
    found = incident(*values)
    assert (found.value, found.limit, found.detail) == (worst, -worst, f"value is {worst}")
    assert (found.count, found.first_step, found.last_step) == (len(values), 0, len(values) - 1)


def test_of_equal_findings_the_first_gives_the_clause() -> None:
    first = Incident.start(Finding("a", 0, value=1.0, detail="first"))
    assert first.extended(Finding("a", 1, value=1.0, detail="second")).detail == "first"
    unknown = Incident.start(Finding("a", 0, detail="first"))
    assert unknown.extended(Finding("a", 1, detail="second")).detail == "first"


def test_layers_are_named_once_in_order_of_appearance() -> None:
    found = Incident.start(Finding("a", 0, ("x", "y"))).extended(Finding("a", 1, ("z", "x")))
    assert found.layers == ("x", "y", "z")
    assert layers_of([Finding("a", 0, ("x", "y")), Finding("b", 0, ("z", "x"))]) == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("actions", "named"),
    [
        ((("A",), ("A",), ("A",)), ("A",)),
        ((("A",), ("B",), ("A",)), ("A", "B", "A")),
        ((("A", "B"), ("A", "B")), ("A", "B")),
        ((("A", "B"), ("B",)), ("A", "B")),
        ((("A",), ("A", "B")), ("A", "A", "B")),
        ((("A",), (), ("A",)), ("A",)),
        (((), ("A", "B"), ()), ("A", "B")),
    ],
)
def test_actions_that_repeat_the_last_ones_are_named_once(
    actions: tuple[tuple[str, ...], ...], named: tuple[str, ...]
) -> None:
    assert incident(*[1.0] * len(actions), actions=actions).actions == named


def test_the_table_of_an_experiment_is_kept_by_its_incident() -> None:
    first = (Trial("a", UNDONE, 2.0), Trial("b", UNDONE, math.inf))
    found = incident(1.0).tried(TrialEvent(EXHAUSTED, "a", trials=first, advice="train longer"))
    assert (found.trials, found.actions) == (first, ())
    assert found.message == "step 0: a: value is 1.0; no action; open; advice: train longer"
    kept = found.tried(TrialEvent(KEPT, "a", "b", trials=(Trial("b", KEPT, 0.5),)))
    assert kept.tried(TrialEvent(KEPT, "a", "b")).actions == ("b",)
    assert (len(kept.trials), kept.trials[-1].outcome, kept.actions, kept.advice) == (3, KEPT, ("b",), "")
    assert len(kept.tried(TrialEvent(EXHAUSTED, "a", trials=1000 * first)).trials) == 1000


def test_an_incident_is_read_back_as_it_was_written() -> None:
    event = TrialEvent(EXHAUSTED, "a", trials=(Trial("x", UNDONE, math.inf),))
    found = incident(math.inf, actions=(("A",),)).tried(event).closed(RESOLVED)
    # Compared as text: from Python 3.13 on, NaN in two objects makes them differ.
    assert repr(Incident.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))) == repr(found)
    assert (found.to_dict()["value"], found.to_dict()["trials"]) == (
        "inf",
        [{"remedies": "x", "outcome": "undone", "loss": "inf"}],
    )
    assert incident(1.0).to_dict()["value"] == 1.0
    older = {key: value for key, value in found.to_dict().items() if key != "trials"}
    assert Incident.from_dict(older).trials == ()


@pytest.mark.parametrize(("steps", "text"), [(1, "step 0: a"), (2, "steps 0-1: a"), (3, "steps 0-2: a")])
def test_an_incident_of_several_steps_names_first_and_last(steps: int, text: str) -> None:
    assert str(incident(*[1.0] * steps)).startswith(text)
    assert (f"{steps} findings" in str(incident(*[1.0] * steps))) == (steps > 1)


def test_the_optimizer_is_named_when_there_are_several() -> None:
    assert str(Incident.start(Finding("a", 3), ("A", "B"), "1")) == "optimizer 1, step 3: a; A, B; open"


def test_nothing_has_happened_unless_an_outcome_says_so() -> None:
    nothing = StepOutcome()
    assert (nothing.clip_coefficient, nothing.lr_factor) == (1.0, 1.0)
    assert not any((nothing.cancelled, nothing.snapshot, nothing.model_changed))


def test_a_list_of_layers_is_cut_after_three() -> None:
    assert [shortlist(tuple("abcde"[:count])) for count in (1, 3, 4, 5)] == [
        "a", "a, b, c", "a, b, c and 1 more", "a, b, c and 2 more",
    ]  # fmt: skip
    assert str(Finding("a", 0, ("x",))) == "step 0: a in x"
    assert str(Finding("a", 0)) == "step 0: a"


# ---------------------------------------------------------------- the tracker


def a(step: int, *actions: str) -> tuple[Finding, tuple[str, ...]]:
    return Finding("a", step, detail="x"), actions


def test_an_incident_is_news_when_it_begins_and_when_its_actions_change() -> None:
    tracker = IncidentTracker("1")
    (begun,) = tracker.update([a(1)])
    assert (begun.outcome, begun.optimizer, begun.first_step) == (OPEN, "1", 1)
    assert tracker.update([a(2)]) == []
    assert [found.actions for found in tracker.update([a(3, "A")])] == [("A",)]
    assert tracker.update([a(4, "A")]) == []
    assert tracker.update([]) == []
    assert tracker.incidents["a"].count == 4


def test_an_incident_ends_once_and_the_next_finding_begins_another() -> None:
    tracker = IncidentTracker()
    tracker.update([a(1), (Finding("b", 1), ())])
    (ended,) = tracker.update([], is_over=lambda incident: incident.kind == "a")
    assert (ended.kind, ended.outcome) == ("a", RESOLVED)
    assert list(tracker.incidents) == ["b"]
    assert tracker.update([], is_over=lambda incident: incident.kind == "a") == []
    assert [found.first_step for found in tracker.update([a(9)])] == [9]


def test_the_incident_whose_remedy_stops_the_run_is_unrecoverable() -> None:
    tracker = IncidentTracker()
    tracker.update([a(1), (Finding("b", 1), ())])
    (changed,) = tracker.update([], stopped_by="b")
    assert (changed.kind, changed.outcome) == ("b", UNRECOVERABLE)
    assert tracker.incidents["a"].outcome == OPEN
    assert tracker.update([], stopped_by="c") == []


def test_experiments_in_words() -> None:
    kept = TrialEvent(KEPT, remedies="Swap", summary="swapped", loss=0.5, before=1.0)
    assert str(kept) == ("kept Swap (swapped): beside the run its loss was 0.5 over the same steps, the run's 1")
    tried = TrialEvent(EXHAUSTED, trials=(Trial("a"), Trial("b")))
    assert str(tried) == "tried 2 sets of remedies beside the run, none was clearly better"
    assert repr(TrialEvent.from_dict(asdict(tried))) == repr(tried)


def test_an_experiment_is_news_for_the_incident_that_it_is_about() -> None:
    tracker = IncidentTracker()
    tracker.update([a(1), (Finding("b", 1), ())])
    event = TrialEvent(EXHAUSTED, "b", trials=(Trial("x"),))
    (changed,) = tracker.update([], event)
    assert (changed.kind, changed.trials) == ("b", event.trials)
    assert tracker.update([], TrialEvent(EXHAUSTED, "c", trials=(Trial("x"),))) == []


def test_what_an_experiment_is_about_is_an_incident_of_its_own() -> None:
    tracker = IncidentTracker()
    skipped, tried = (Finding("a", 1), ("Skip",)), (Finding("b", 1), ())
    tracker.update([skipped, tried], TrialEvent(EXHAUSTED, "b", trials=(Trial("x"),)))
    assert list(tracker.incidents) == ["a", "b"]


def test_what_the_action_of_another_has_answered_is_its_symptom() -> None:
    tracker = IncidentTracker()
    tracker.update([(Finding("old", 0), ())])
    step = [(Finding("b", 1), ()), a(1, "Skip"), (Finding("old", 1), ()), (Finding("c", 1), ("Clip",))]
    changed = tracker.update(step)
    assert [found.kind for found in changed] == ["a", "c"]
    assert [symptom.kind for symptom in tracker.incidents["a"].symptoms] == ["b"]
    assert list(tracker.incidents) == ["old", "a", "c"]
    assert not tracker.incidents["c"].symptoms
    tracker.update([(Finding("b", 2), ())])  # answered by nothing
    assert "b" in tracker.incidents


def test_the_origin_is_asked_for_once_where_incidents_begin() -> None:
    asked = iter(Origin(batch=number) for number in (7, 8))
    tracker = IncidentTracker(origin=lambda: next(asked))
    tracker.update([a(1), (Finding("b", 1), ())])
    tracker.update([a(2)])
    tracker.update([])
    tracker.update([(Finding("c", 3), ())])
    assert {kind: found.origin.batch for kind, found in tracker.incidents.items()} == {"a": 7, "b": 7, "c": 8}


def test_a_copy_asks_no_run_for_the_origin() -> None:
    tracker = IncidentTracker("1", origin=lambda: Origin(batch=7))
    tracker.update([a(1)])
    other = copy.deepcopy(tracker)
    other.update([(Finding("b", 2), ())])
    assert (other.optimizer, other.incidents["a"].origin.batch, other.incidents["b"].origin) == ("1", 7, Origin())


def test_the_end_closes_what_was_open_and_what_stays_open_is_kept() -> None:
    tracker = IncidentTracker()
    tracker.update([a(1), (Finding("b", 1), ()), (Finding("c", 1), ())], stopped_by="c", now=1.0)
    ended = tracker.close(lambda incident: OPEN if incident.kind == "a" else RESOLVED, now=0.5)
    assert [(found.kind, found.outcome, found.loss_after) for found in ended] == [
        ("a", OPEN, 0.5), ("b", RESOLVED, 0.5),
    ]  # fmt: skip
    assert list(tracker.incidents) == ["a"]


def test_open_incidents_survive_a_checkpoint() -> None:
    tracker, other = IncidentTracker(), IncidentTracker()
    tracker.update([a(1, "A")], TrialEvent(EXHAUSTED, "a", trials=(Trial("x", UNDONE, 1.0),)))
    other.load_state_dict(json.loads(json.dumps(tracker.state_dict())))
    assert other.incidents["a"].actions == ("A",)
    assert other.update([a(2)]) == []


# ---------------------------------------------------------------- a step's report


def test_a_report_gives_every_known_scalar_under_its_optimizers_name() -> None:
    stats = GradStats.of({"x": 3.0, "y": 4.0}, loss=2.0, lr=0.1)
    report = StepReport(stats=stats, outcome=StepOutcome(clip_coefficient=0.5, lr_factor=0.25), limit=7.0)
    scalars = report.scalars()
    assert {name.removeprefix("gradguard/"): value for name, value in scalars.items() if "layer" not in name} == {
        "grad_norm": 5.0, "grad_norm_clipped": 2.5, "grad_norm_limit": 7.0, "clip_coefficient": 0.5, "lr_factor": 0.25,
        "lr": 0.1, "loss": 2.0,
    }  # fmt: skip
    bands = [scalars[f"gradguard/layer_norm/p{percent}"] for percent in (0, 25, 50, 75, 100)]
    assert bands == [3.0, 3.25, 3.5, 3.75, 4.0]
    assert StepReport(stats=stats, optimizer="1").scalars()["gradguard/1/loss"] == 2.0


def test_a_cancelled_step_uses_no_gradient() -> None:
    report = StepReport(stats=GradStats.of({"x": 3.0}), outcome=StepOutcome(cancelled=True, clip_coefficient=0.5))
    scalars = report.scalars()
    assert (scalars["gradguard/grad_norm_clipped"], scalars["gradguard/clip_coefficient"]) == (0.0, 0.0)


def test_only_norm_and_loss_are_given_when_they_are_not_finite() -> None:
    scalars = StepReport(stats=GradStats.of({"x": math.nan})).scalars()
    assert {name for name, value in scalars.items() if not math.isfinite(value)} == {
        "gradguard/grad_norm", "gradguard/loss",
    }  # fmt: skip
    assert not any("layer_norm" in name for name in scalars)
    assert StepReport(stats=GradStats.of({"x": math.nan, "y": 2.0})).scalars()["gradguard/layer_norm/p0"] == 2.0


def test_the_actions_of_a_report_are_those_of_all_its_responses() -> None:
    first, second, third = (Action(name, name) for name in "abc")
    responses = (Response("x", actions=(first, second)), Response("y"), Response("z", actions=(third,)))
    report = StepReport(stats=GradStats.of({"x": 1.0}), outcome=StepOutcome(responses=responses))
    assert report.actions == (first, second, third)
