from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_gradguard.detectors import DETECTORS
from lightning_gradguard.findings import Finding
from lightning_gradguard.policy.ladders import Policy, decide
from lightning_gradguard.policy.presets import MONITOR, PRESETS, PROTECT
from lightning_gradguard.remedies import ReduceLR, Rollback, SkipStep, Stop, TryEach

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


def test_cures_wait_while_another_finding_leads_back_to_a_snapshot() -> None:
    policy = Policy({"exploding": [Rollback()], "diverging": [TryEach(((ReduceLR(),),)), ()]})
    found = [Finding("exploding", 3), Finding("diverging", 3)]
    standing, chosen = decide({}, found, policy)
    assert [rung for _, rung in chosen] == [(Rollback(),), ()]
    standing, chosen = decide(standing, found[1:], policy)
    assert chosen == ((found[1], (TryEach(((ReduceLR(),),)),)),)


def test_a_remedy_chosen_twice_in_a_step_is_applied_once() -> None:
    _, chosen = decide({}, [Finding("a", 0), Finding("b", 0)], LADDER)
    assert [rung for _, rung in chosen] == [(SkipStep(),), ()]


def test_monitor_never_chooses_anything() -> None:
    findings = [Finding(detector.kind, 0) for detector in DETECTORS]
    assert all(rung == () for _, rung in decide({}, findings, MONITOR)[1])
    assert not MONITOR.uses_snapshots


def test_protect_is_reversible_and_ends_honestly() -> None:
    assert all(remedy.reversible for remedy in PROTECT.remedies)
    assert set(PRESETS) == {"monitor", "protect", "repair"}
    for kind in ("nonfinite", "exploding", "loss_spike", "loss_increase", "overshooting"):
        assert PROTECT.rung(kind, 10**6) == (Stop(),)


@given(st.lists(st.sampled_from(["x", "."]), max_size=200))
def test_decide_is_pure_and_standing_is_bounded(pattern: list[str]) -> None:
    standing: dict[str, list[int]] = {}
    for step, mark in enumerate(pattern):
        before = copy.deepcopy(standing)
        after, _ = decide(standing, [Finding("a", step)] if mark == "x" else [], LADDER)
        assert standing == before
        standing = after
        assert all(0 <= climbed <= LADDER.height(kind) for kind, (climbed, _) in standing.items())


def test_bad_ladders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the ladder of 'a' must hold remedies, got 'SkipStep'"):
        Policy({"a": [("SkipStep",)]})  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"`Policy\(patience=...\)` must be at least 1, got 0"):
        Policy(patience=0)
    with pytest.raises(ValueError, match=r"`ReduceLR\(factor=...\)` must be between 0 and 1, got 1.5"):
        ReduceLR(factor=1.5)
