"""What a policy decides, step by step: escalation, the way back, what counts as healthy, what waits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lightning_gradguard.findings import Finding
from lightning_gradguard.policy.ladders import LadderStates, Policy, decide
from lightning_gradguard.remedies import AdaptiveClip, ReduceLR, ReduceMomentum, Rollback, SkipStep, Stop, TryEach

SKIP, CLIP, REDUCE, BACK, STOP, TRY = SkipStep(), AdaptiveClip(), ReduceLR(), Rollback(), Stop(), TryEach([ReduceLR()])
#: Beside the ladder of "a" in every test: a kind with a remedy. The kind "n" has no ladder.
OTHER = [ReduceLR(0.5)]


def follow(policy: Policy, steps: Sequence[str]) -> tuple[LadderStates, list[str]]:
    """The ladder states at the end, and what each finding of "a" was answered with; a step is the kinds found in it."""
    states: LadderStates = {}
    got: list[str] = []
    for number, kinds in enumerate(steps):
        states, chosen = decide(states, [Finding(kind, number) for kind in kinds], policy)
        got += ["+".join(r.name for r in rung) for finding, rung in chosen if finding.kind == "a"]
    return states, got


def answers(ladder: list, *steps: str, patience: int = 2) -> list[str]:
    return follow(Policy({"a": ladder, "c": OTHER}, patience=patience), steps)[1]


def healthy(steps: int) -> list[str]:
    return [""] * steps


# ---------------------------------------------------------------- the way back


@pytest.mark.parametrize(("steps", "last"), [(1, "ReduceLR"), (2, "AdaptiveClip"), (3, "AdaptiveClip")])
def test_patience_healthy_steps_lead_one_rung_back(steps: int, last: str) -> None:
    assert answers([CLIP, REDUCE, STOP], "a", *healthy(steps), "a") == ["AdaptiveClip", last]


def test_every_further_rung_back_takes_patience_steps_again() -> None:
    ladder = [CLIP, REDUCE, ReduceMomentum(), STOP]
    got = [answers(ladder, *"aaa", *healthy(steps), "a")[-1] for steps in range(1, 8)]
    assert got == ["Stop", *["ReduceMomentum"] * 2, *["ReduceLR"] * 2, *["AdaptiveClip"] * 2]
    assert answers(ladder, *"aa", "", "a", "", "a")[-1] == "Stop"  # a finding ends the count


def test_patience_is_three_steps_and_an_incident_ends_after_nine() -> None:
    policy = Policy({"a": [CLIP, STOP]})
    assert follow(policy, ["a", *healthy(2), "a"])[1][-1] == "Stop"
    assert follow(policy, ["a", *healthy(3), "a"])[1][-1] == "AdaptiveClip"
    assert policy.steps_to_resolve == 9
    assert Policy(patience=5).steps_to_resolve == 15


def test_one_healthy_step_is_enough_with_a_patience_of_one() -> None:
    assert answers([CLIP, STOP], "a", "", "a", patience=1) == ["AdaptiveClip"] * 2


def test_only_a_rollback_just_before_needs_fifty_steps() -> None:
    assert answers([CLIP, BACK, STOP], "a", *healthy(2), "a") == ["AdaptiveClip"] * 2
    assert answers([CLIP, BACK, STOP], "a", "a", *healthy(49), "a")[-1] == "Stop"
    assert answers([CLIP, BACK, STOP], "a", "a", *healthy(50), "a")[-1] == "Rollback"
    assert answers([BACK, CLIP, STOP], "a", "a", *healthy(2), "a")[-1] == "AdaptiveClip"
    assert answers([(CLIP, BACK), STOP], "a", *healthy(49), "a")[-1] == "Stop"


# ---------------------------------------------------------------- skipped steps


def test_a_healthy_step_leads_back_to_the_first_rung_only_after_nothing_but_skips() -> None:
    assert answers([SKIP, SKIP, STOP], "a", "a", "", "a")[-1] == "SkipStep"
    assert answers([SKIP, (SKIP, CLIP), STOP], "a", "a", "", "a")[-1] == "Stop"
    assert answers([SKIP, (CLIP, SKIP), STOP], "a", "a", "", "a")[-1] == "Stop"
    assert answers([SKIP, CLIP, STOP], "a", "a", "", "a")[-1] == "Stop"
    assert answers([None, STOP], "a", "", "a") == ["", "Stop"]


def test_a_step_with_another_finding_that_has_remedies_is_not_healthy() -> None:
    assert answers([SKIP, SKIP, STOP], "a", "a", "c", "a")[-1] == "Stop"
    assert answers([SKIP, SKIP, STOP], "a", "a", "n", "a")[-1] == "SkipStep"
    assert (
        answers([SKIP, SKIP, STOP], "a", "a", "c", "", "a", patience=3)[-1] == "Stop"
    )  # nor is the next one the first


# ---------------------------------------------------------------- how long a kind is remembered


@pytest.mark.parametrize(("found", "patience"), [(1, 2), (5, 2), (5, 3)])
def test_a_kind_without_remedies_is_forgotten_after_patience_steps(found: int, patience: int) -> None:
    policy = Policy({"c": OTHER}, patience=patience)
    assert set(follow(policy, ["n"] * found + healthy(patience - 1))[0]) == {"n"}
    assert not follow(policy, ["n"] * found + healthy(patience))[0]


def test_a_kind_that_is_back_at_its_first_rung_is_remembered_for_patience_steps() -> None:
    policy = Policy({"a": [SKIP, STOP]}, patience=3)
    assert [len(follow(policy, ["a", *healthy(steps)])[0]) for steps in range(5)] == [1, 1, 1, 0, 0]


def test_a_kind_is_forgotten_when_it_is_below_its_first_rung() -> None:
    policy = Policy({"a": [CLIP, CLIP, STOP]}, patience=2)
    assert [len(follow(policy, ["a", "a", *healthy(steps)])[0]) for steps in range(6)] == [1, 1, 1, 1, 0, 0]
    assert follow(policy, ["a"] * 9)[0]["a"][0] == 3


# ---------------------------------------------------------------- several findings in a step


def test_the_first_of_two_findings_of_a_kind_is_answered() -> None:
    policy = Policy({"a": [CLIP, STOP]})
    states, chosen = decide({}, [Finding("a", 3, ("first",)), Finding("a", 3, ("second",))], policy)
    assert [(finding.layers, rung) for finding, rung in chosen] == [(("first",), (CLIP,))]
    assert states["a"][0] == 1


def test_each_kind_climbs_its_own_ladder_and_a_remedy_is_applied_once() -> None:
    policy = Policy({"a": [CLIP, REDUCE], "c": [(CLIP, SKIP), STOP]})
    _, chosen = decide({}, [Finding("c", 0), Finding("a", 0)], policy)
    assert [(finding.kind, rung) for finding, rung in chosen] == [("c", (CLIP, SKIP)), ("a", ())]
    states, _ = decide({}, [Finding("a", 0)], policy)
    _, chosen = decide(states, [Finding("a", 1), Finding("c", 1)], policy)
    assert [rung for _, rung in chosen] == [(REDUCE,), (CLIP, SKIP)]


# ---------------------------------------------------------------- what a policy needs


def test_what_a_policy_uses_follows_from_any_of_its_remedies() -> None:
    plain = Policy({"a": [CLIP], "c": [None, (SKIP, STOP)]})
    assert (plain.uses_search, Policy({"a": [CLIP, (CLIP, TRY)]}).uses_search) == (False, True)
    assert (Policy({"a": [CLIP]}).uses_snapshots, Policy({"a": [CLIP], "c": [(CLIP, BACK)]}).uses_snapshots) == (
        False, True,
    )  # fmt: skip


def test_without_search_only_the_remedies_that_search_are_gone() -> None:
    policy = Policy({"a": [CLIP, (CLIP, TRY), None, STOP], "b": [TRY], "c": [None, TRY], "d": [None, CLIP]})
    quiet = policy.without_search
    assert quiet.ladders == {"a": ((CLIP,), (CLIP,), None, (STOP,)), "d": (None, (CLIP,))}
    assert (quiet.patience, quiet.uses_search, quiet.trials) == (policy.patience, False, ())


def test_every_set_of_remedies_is_tried_once_in_the_order_of_the_ladders() -> None:
    other = TryEach([STOP, REDUCE])
    assert Policy({"a": [CLIP, (CLIP, TRY)], "b": [other]}).trials == ((REDUCE,), (STOP,))


def test_an_old_kind_warns_and_becomes_the_present_one() -> None:
    with pytest.warns(DeprecationWarning, match="relapse.*loss_increase"):
        assert set(Policy({"relapse": [SKIP], "a": [SKIP]}).ladders) == {"loss_increase", "a"}


def test_ladders_are_given_by_kind() -> None:
    with pytest.raises(ValueError, match=r"`Policy\(ladders=...\)` must map kinds to ladders, got \[SkipStep\(\)\]"):
        Policy([SKIP])  # type: ignore[arg-type]
