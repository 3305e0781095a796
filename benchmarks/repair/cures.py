"""The tools that the tables compare, and a guard that answers findings with randomly chosen remedies."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

from peers import REPAIR as REPAIRING
from peers import WITH_REPAIR, Setting

from lightning_gradguard import GradGuard
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.policy.presets import REPAIR
from lightning_gradguard.remedies import AbstractRemedy, TryEach
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class RandomRemedy(AbstractRemedy):
    """Restores the initial weights and applies one randomly chosen set of those that `REPAIR` would try."""

    uses_search: ClassVar[bool] = True
    seed: int = 0

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        if step.checkup is None or step.checkup.initial is None or step.edit_model() is None:
            return None
        drawn = random.Random(self.seed).choice(REPAIR.trials)
        step.cancel()
        step.checkup.initial.restore()
        actions = [remedy.apply(finding, step) for remedy in drawn]
        step.checkup.forget()  # once a run
        done = [action.summary for action in actions if action is not None]
        return self.did(", ".join(done)) if done else None


def random_remedy(seed: int) -> Setting:
    """`REPAIR` with every `TryEach` replaced by one random set."""
    ladders: dict[str, Any] = {}
    for kind, ladder in REPAIR.ladders.items():
        ladders[kind] = [
            rung and tuple(RandomRemedy(seed) if isinstance(remedy, TryEach) else remedy for remedy in rung)
            for rung in ladder
        ]
    return [GradGuard(Policy(ladders, name="random"), record=False)], {}


def tools(seed: int) -> dict[str, Any]:
    """Column title -> function that creates the callbacks and Trainer options."""
    ours = {
        "random remedy": lambda: random_remedy(seed),
        "GradGuard protect": lambda: ([GradGuard("protect", record=False)], {}),
    }
    others = {name: make for name, make in WITH_REPAIR.items() if name != "GradGuard"}
    repair = others.pop(REPAIRING)
    return {**others, **ours, REPAIRING: repair}


OURS = ("random remedy", "GradGuard protect", "GradGuard repair")
