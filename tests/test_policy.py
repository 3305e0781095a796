from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_gradguard.detectors import DETECTORS
from lightning_gradguard.findings import Finding
from lightning_gradguard.policy.ladders import LadderStates, Policy, decide
from lightning_gradguard.policy.presets import MONITOR, PRESETS, PROTECT
from lightning_gradguard.remedies import (
    AbstractRemedy,
    InsertNorm,
    NormalizeInput,
    ReduceLR,
    Reinitialize,
    Rollback,
    SkipStep,
    Stop,
    SwapActivation,
    SwitchToAdam,
    TryEach,
)

LADDER = Policy({"a": [SkipStep(), SkipStep(), (Rollback(), ReduceLR()), Stop()], "b": [SkipStep()]}, patience=2)


def climb(policy: Policy, pattern: str) -> list[str]:
    """What kind "a" gets at every step: `x` is a finding, `.` a healthy step."""
    standing, got = {}, []
    for step, mark in enumerate(pattern):
        findings = [Finding("a", step)] if mark == "x" else []
        standing, chosen = decide(standing, findings, policy)
        got += ["+".join(r.name for r in rung) for _, rung in chosen]
    return got


def test_climbs_with_every_finding_and_the_last_rung_repeats() -> None:
    assert climb(LADDER, "xxxxx") == ["SkipStep", "SkipStep", "Rollback+ReduceLR", "Stop", "Stop"]


def test_goes_down_a_rung_after_patience_healthy_steps() -> None:
    assert climb(LADDER, "xx..x") == ["SkipStep", "SkipStep", "SkipStep"]


def test_a_rollback_has_to_prove_itself() -> None:
    assert climb(LADDER, "xxx" + 49 * "." + "x")[-1] == "Stop"
    assert climb(LADDER, "xxx" + 50 * "." + "x")[-1] == "Rollback+ReduceLR"


def test_a_healthy_step_after_skips_alone_shows_that_the_weights_are_sound() -> None:
    assert climb(LADDER, "xx.xx.x") == ["SkipStep"] * 5


def test_a_remedy_chosen_twice_in_a_step_is_applied_once() -> None:
    _, chosen = decide({}, [Finding("a", 0), Finding("b", 0)], LADDER)
    assert [rung for _, rung in chosen] == [(SkipStep(),), ()]


def test_monitor_never_chooses_anything() -> None:
    findings = [Finding(detector.kind, 0) for detector in DETECTORS]
    assert all(rung == () for _, rung in decide({}, findings, MONITOR)[1])
    assert not MONITOR.uses_snapshots


def test_protect_never_changes_the_model_and_ends_with_a_stop() -> None:
    changing = {Reinitialize, SwapActivation, InsertNorm, NormalizeInput, SwitchToAdam, TryEach}
    assert not {type(remedy) for remedy in PROTECT.remedies} & changing
    assert set(PRESETS) == {"monitor", "protect", "repair"}
    for kind in ("nonfinite", "exploding", "loss_spike", "loss_increase", "overshooting"):
        assert PROTECT.rung(kind, 10**6) == (Stop(),)


@given(st.lists(st.sampled_from(["x", "."]), max_size=200))
def test_decide_is_pure_and_standing_is_bounded(pattern: list[str]) -> None:
    standing: LadderStates = {}
    for step, mark in enumerate(pattern):
        before = copy.deepcopy(standing)
        after, _ = decide(standing, [Finding("a", step)] if mark == "x" else [], LADDER)
        assert standing == before
        standing = after
        assert all(0 <= state.rung <= LADDER.length(kind) for kind, state in standing.items())


def test_bad_ladders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['a'\]` must hold remedies, got 'SkipStep'"):
        Policy({"a": [("SkipStep",)]})  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"`Policy\(patience=...\)` must be a whole number of at least 1, got 0"):
        Policy(patience=0)
    with pytest.raises(ValueError, match=r"`ReduceLR\(factor=...\)` must be a number above 0 and below 1, got 1.5"):
        ReduceLR(factor=1.5)


@dataclass
class Mutable(AbstractRemedy):
    """A remedy that can be changed."""

    def apply(self, finding: Finding, step: Any) -> None:
        """Does nothing."""


class Identical(AbstractRemedy):
    """A remedy that equals nothing but itself."""

    def apply(self, finding: Finding, step: Any) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class WithList(AbstractRemedy):
    """A remedy without a hash."""

    layers: Any = None

    def apply(self, finding: Finding, step: Any) -> None:
        """Does nothing."""


@pytest.mark.parametrize(
    ("ladder", "rule"),
    [
        ([Mutable()], "frozen dataclasses with hashable fields"),
        ([Identical()], "frozen dataclasses with hashable fields"),
        ([WithList([1])], "frozen dataclasses with hashable fields"),
        ([[]], r"must hold remedies, got \[\]. Use None for a rung without a remedy"),
        ([()], "Use None for a rung without a remedy"),
        ("SkipStep", "must be a sequence of remedies"),
        (["SkipStep"], "must hold remedies, got 'SkipStep'"),
        ([{}], "Hydra makes mappings of dataclasses unless `_convert_: object`"),
        ([({"factor": 0.1},)], "Hydra makes mappings of dataclasses"),
        ({"nonfinite": SkipStep()}, "must be a sequence of remedies"),
        (SkipStep(), "must be a sequence of remedies"),
    ],
)
def test_what_is_no_remedy_by_value_is_refused_where_the_policy_is_made(ladder: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as told:
        Policy({"nonfinite": ladder})
    assert "Policy(ladders=...)['nonfinite']" in str(told.value)


@pytest.mark.parametrize("patience", [None, 0, 2.5, True, "3", float("nan")])
def test_patience_is_a_positive_whole_number(patience: Any) -> None:
    with pytest.raises(ValueError, match=r"`Policy\(patience=...\)` must be a whole number of at least 1"):
        Policy(patience=patience)


def test_lists_are_taken_for_sets_of_remedies() -> None:
    assert TryEach([[ReduceLR()], ReduceLR(0.5)]).trials == ((ReduceLR(),), (ReduceLR(0.5),))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PRESETS)
def test_policies_are_values(name: str) -> None:
    policy = PRESETS[name]
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert other == policy
        assert hash(other) == hash(policy)
        assert other.allows_actions == (name != "monitor")
    assert len(repr(policy)) < 500


def test_a_policy_that_only_records_has_no_remedies() -> None:
    with pytest.raises(ValueError, match="allows_actions=False"):
        Policy({"nonfinite": [SkipStep()]}, allows_actions=False)
