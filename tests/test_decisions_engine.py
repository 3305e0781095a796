"""What the engine passes on from step to step, with a source and an actor that only say what they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from lightning_gradguard import GradStats
from lightning_gradguard.detectors import AbstractDetector, State
from lightning_gradguard.engine import StepEngine
from lightning_gradguard.findings import Action, Finding, Response, StepOutcome
from lightning_gradguard.policy import Policy
from lightning_gradguard.remedies import ReduceLR, SkipStep

STATS = GradStats.of({"a": 1.0})


@dataclass
class Source:
    """A run whose measurements are the same at every step unless a test changes them."""

    measured: dict[str, Any] = field(default_factory=dict)
    asked: int = 0

    def collect(self, *inputs: Any) -> dict[str, Any]:
        plain = {"layers": STATS.layers, "grad_norm": STATS.grad_norm, "loss": 1.0, "lr": 0.1, "activation_stats": None}
        return {**plain, **self.measured}

    def batch_stats(self) -> None:
        self.asked += 1


@dataclass
class Actor:
    """Answers every step with the next of the given outcomes; after the last one nothing happens any more."""

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    in_trial: bool = False
    seen: list[tuple[tuple[str, ...], bool]] = field(default_factory=list)

    def act(self, stats: GradStats, chosen: Sequence[tuple[Finding, Any]], sound: bool) -> StepOutcome:
        self.seen.append((tuple(finding.kind for finding, _ in chosen), sound))
        responses = tuple(
            Response(finding.kind, actions=tuple(Action(r.name, "did it") for r in rung)) for finding, rung in chosen
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


def engine(*detectors: AbstractDetector, outcomes: Sequence[dict[str, Any]] = (), **settings: Any) -> StepEngine:
    settings = {"policy": Policy({"counted": [SkipStep(), ReduceLR()]}), **settings}
    policy = settings.pop("policy")
    return StepEngine(Source(), detectors or (Counter(),), policy, Actor(list(outcomes)), **settings)


@pytest.mark.parametrize("hold", [True, False])
def test_no_snapshot_is_taken_while_a_detector_holds_them(hold: bool) -> None:
    run = engine(Counter(fields=(("hold_snapshots", hold),)), Counter(name="other"))
    run.step()
    assert run.actor.seen == [((), not hold)]
