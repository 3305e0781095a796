"""The tools that stand side by side, and a guard that answers its own findings with a random cure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

from peers import TOOLS as PEERS
from peers import Setting

from lightning_gradguard import GradGuard
from lightning_gradguard.findings import Finding
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.policy.presets import REPAIR
from lightning_gradguard.remedies import AbstractRemedy, TryEach
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class AnyCure(AbstractRemedy):
    """Applies one of the sets that `REPAIR` would try, drawn by lot, and looks no further."""

    reversible: ClassVar[bool] = False
    uses_search: ClassVar[bool] = True
    seed: int = 0

    def apply(self, finding: Finding, step: PendingStep) -> str:
        if step.course is None or step.course.tried:
            return ""
        sets = [
            trial
            for remedy in sorted(REPAIR.remedies, key=repr)
            if isinstance(remedy, TryEach)
            for trial in remedy.trials
        ]
        drawn = random.Random(self.seed).choice(sets)
        step.cancel()
        words = [remedy.apply(finding, step) for remedy in drawn]
        step.course.tried.add("one")
        step.course.changed()
        step.renewed = True
        return ", ".join(filter(None, words))


def by_lot(seed: int) -> Setting:
    """`REPAIR` with every `TryEach` replaced by one draw."""
    ladders: dict[str, Any] = {}
    for kind, ladder in REPAIR.ladders.items():
        tried = [any(isinstance(remedy, TryEach) for remedy in rung) for rung in ladder]  # type: ignore[union-attr]
        ladders[kind] = [(AnyCure(seed),) if t else rung for t, rung in zip(tried, ladder, strict=True)]
    return [GradGuard(Policy(ladders, name="by lot"), record=False)], {}


def tools(seed: int) -> dict[str, Any]:
    """Name of each column -> what makes its callbacks and Trainer options."""
    ours = {
        "random cure": lambda: by_lot(seed),
        "GradGuard protect": lambda: ([GradGuard("protect", record=False)], {}),
        "GradGuard repair": lambda: ([GradGuard("repair", record=False)], {}),
    }
    return {**{name: make for name, make in PEERS.items() if name != "GradGuard"}, **ours}


OURS = ("random cure", "GradGuard protect", "GradGuard repair")
