"""Trials of remedies: what helps is kept, what does not is undone exactly, and nothing is tried twice."""

from __future__ import annotations

import torch
from torch import nn

from lightning_gradguard.findings import EXHAUSTED, KEPT, STARTED, Action, Finding, TrialEvent
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.remedy_search import Candidate, RemedySearch

FINDING = Finding("no_progress", 30)


def searching() -> tuple[nn.Module, RemedySearch]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    search = RemedySearch(net, optimizer, LRFactor(optimizer))
    search.remember_initial()
    for _ in range(30):
        search.observe(1.0)
    return net, search


def candidate(name: str, *summaries: str | None, cause: str = "x") -> Candidate:
    actions = [None if summary is None else Action(name, summary) for summary in summaries]
    return Candidate(name, name, cause, tuple(lambda action=action: action for action in actions))


def swap(net: nn.Module) -> Candidate:
    def apply() -> Action:
        net[1] = nn.ELU()
        return Action("swap", "swapped")

    return Candidate("swap", "swap", "x", (apply,))


def run(search: RemedySearch, losses: list[float]) -> list[TrialEvent]:
    events = [search.follow(loss, loss == loss, None, lambda: None) for loss in losses]
    return [event for event in events if event is not None]


def test_what_does_not_help_is_undone_exactly() -> None:
    net, search = searching()
    before = [p.detach().clone() for p in net.parameters()]
    search.begin(FINDING, [swap(net)], 8, advice="train longer")
    assert isinstance(net[1], nn.ELU)
    with torch.no_grad():
        net[0].weight.add_(1.0)
    (event,) = run(search, [1.0] * 8)
    assert event == TrialEvent(EXHAUSTED, "no_progress", summary="swapped", trials=1, advice="train longer")
    assert str(event) == "undid 1 trial that did not help: swapped"
    assert isinstance(net[1], nn.Sigmoid)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert not search.active


def test_the_best_is_kept_with_its_cause() -> None:
    _, search = searching()
    search.begin(FINDING, [candidate("a", "first"), candidate("b", "second", cause="y")], 8)
    run(search, [0.95, 0.94] * 4)
    *_, event = run(search, [0.9, 0.8] * 4)
    assert (event.kind, event.remedies, event.cause, event.about) == (KEPT, "b", "y", "no_progress")
    assert event.improved
    assert search.kept is not None
    assert search.kept.name == "b"


def test_a_clear_winner_ends_the_search() -> None:
    _, search = searching()
    search.begin(FINDING, [candidate("a", "first"), candidate("b", "second")], 8)
    (event,) = run(search, [0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1])
    assert str(event) == "kept a (first): loss is 0.1, was 1"
    assert search.tried == {"a"}


def test_a_trial_of_nan_fails_early_and_sets_that_do_not_apply_are_passed_over() -> None:
    _, search = searching()
    candidates = [candidate("a", None, "never"), candidate("b", "real"), candidate("c", "last")]
    event = search.begin(FINDING, candidates, 8)
    assert (event.kind, event.remedies, event.summary) == (STARTED, "b", "real")
    assert [event.remedies for event in run(search, [float("nan")] * 3)] == ["c"]


def test_what_was_tried_is_not_tried_again() -> None:
    _, search = searching()
    search.begin(FINDING, [candidate("a", "first")], 8)
    run(search, [1.0] * 8)
    assert search.begin(FINDING, [candidate("a", "first")], 8) is None
    assert not search.active


def test_two_sets_with_the_same_display_name_are_both_tried() -> None:
    _, search = searching()
    same = [Candidate(number, "Swap + Draw", "x", (lambda: Action("Swap", "done"),)) for number in (1, 2)]
    search.begin(FINDING, same, 8)
    events = run(search, [1.0] * 16)
    assert [event.kind for event in events] == [STARTED, EXHAUSTED]
    assert events[-1].trials == 2


def test_a_run_does_not_end_within_a_trial() -> None:
    _, search = searching()
    search.begin(FINDING, [candidate(name, name) for name in "abc"], 8, left=30)
    events = [search.follow(1.0, True, None, lambda: None) for _ in range(16)]
    assert events[7] is not None
    assert events[7].remedies == "b"
    assert events[15] is not None
    assert (events[15].kind, events[15].trials) == (EXHAUSTED, 2)
    assert not search.active


def test_a_later_search_begins_with_what_was_kept() -> None:
    net, search = searching()

    def restart() -> Action | None:
        return Action("Restart", "restored") if search.restart() else None

    search.begin(FINDING, [Candidate("swap", "swap", "x", (restart, *swap(net).apply))], 8)
    begun = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    assert run(search, [0.1] * 8)[0].kind == KEPT
    assert not torch.equal(net[0].weight, begun)
    assert search.restart()
    assert isinstance(net[1], nn.ELU)
    assert torch.equal(net[0].weight, begun)
