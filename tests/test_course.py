from __future__ import annotations

import torch
from torch import nn

from lightning_gradguard.findings import Finding
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.remedy_search import RemedySearch

FINDING = Finding("no_progress", 30)


def course() -> tuple[nn.Module, RemedySearch]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    treatment = RemedySearch(net, optimizer, LRFactor(optimizer))
    treatment.remember()
    for _ in range(30):
        treatment.observe(1.0)
    return net, treatment


def swap(net: nn.Module) -> str:
    net[1] = nn.ELU()
    return "swapped"


def run(treatment: RemedySearch, losses: list[float]) -> list[str]:
    said = [treatment.follow(loss, loss == loss, None, lambda: None) for loss in losses]
    return [words for words in said if words]


def test_what_does_not_help_is_undone_exactly() -> None:
    net, treatment = course()
    before = [p.detach().clone() for p in net.parameters()]
    treatment.begin(FINDING, [("swap", "x", [lambda: swap(net)])], 8, None)
    assert isinstance(net[1], nn.ELU)
    with torch.no_grad():
        net[0].weight.add_(1.0)
    words = run(treatment, [1.0] * 8)
    assert words == ["none of 1 trials helped: swapped"]
    assert isinstance(net[1], nn.Sigmoid)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert not treatment.active


def test_the_best_is_kept_with_its_cause() -> None:
    _, treatment = course()
    treatment.begin(FINDING, [("a", "x", [lambda: "first"]), ("b", "y", [lambda: "second"])], 8, None)
    run(treatment, [0.95, 0.94] * 4)
    run(treatment, [0.9, 0.8] * 4)
    assert [(t.name, t.cause) for t in treatment.kept] == [("b", "y")]


def test_a_clear_winner_ends_the_search() -> None:
    _, treatment = course()
    treatment.begin(FINDING, [("a", "x", [lambda: "first"]), ("b", "y", [lambda: "second"])], 8, None)
    words = run(treatment, [0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1])
    assert words == ["kept first (loss 0.1, was 1)"]
    assert treatment.tried == {"a"}


def test_a_trial_of_nan_fails_early_and_deeds_without_effect_are_passed_over() -> None:
    _, treatment = course()
    candidates = [("a", "x", [lambda: "", lambda: "never"]), ("b", "y", [lambda: "real"]), ("c", "z", [lambda: "last"])]
    assert treatment.begin(FINDING, candidates, 8, None) == "trying real"
    assert run(treatment, [float("nan")] * 3) == ["trying last"]
    assert treatment.trial == "c"


def test_what_was_tried_is_not_tried_again() -> None:
    _, treatment = course()
    treatment.begin(FINDING, [("a", "x", [lambda: "first"])], 8, None)
    run(treatment, [1.0] * 8)
    assert treatment.begin(FINDING, [("a", "x", [lambda: "first"])], 8, None) == ""
    assert not treatment.active


def test_a_run_does_not_end_within_a_trial() -> None:
    _, treatment = course()
    candidates = [(name, "x", [lambda name=name: name]) for name in "abc"]
    treatment.begin(FINDING, candidates, 8, None, left=30)
    words = [treatment.follow(1.0, True, None, lambda: None) for _ in range(16)]
    assert words[7] == "trying b"
    assert words[15].startswith("none of 2 trials helped")
    assert not treatment.active


def test_a_later_cure_begins_with_what_was_kept() -> None:
    net, treatment = course()
    treatment.begin(FINDING, [("swap", "x", [treatment.restart, lambda: swap(net)])], 8, None)
    begun = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    assert run(treatment, [0.1] * 8)[0].startswith("kept")
    assert not torch.equal(net[0].weight, begun)
    treatment.restart()
    assert isinstance(net[1], nn.ELU)
    assert torch.equal(net[0].weight, begun)
