"""ACT: try several remedies beside the run and continue with those that are clearly better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.arguments import require
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy, as_rung
from lightning_gradguard.renamed import renamed_fields
from lightning_gradguard.step.checkup import Question
from lightning_gradguard.step.pending_step import PendingStep


@renamed_fields(by_hand="advice")
@dataclass(frozen=True)
class TryEach(AbstractRemedy):
    """Asks for an experiment: each set of remedies on the run's own first steps, beside the run (see `Checkup`).

    Each set begins with the initial weights and takes the first steps of the run again: the same batches with the
    rates of the user's schedule. The run is the control. A set that is clearly better takes its place; otherwise
    nothing is changed. A set with a remedy that does not apply is passed over. What was tried is recorded as the
    incident's `trials`; its `actions` name only what was kept. In the second half of a run nothing is tried.

    A policy with this remedy makes one more experiment at a quarter of the run, whatever was found.

    Args:
        trials: The sets, the simplest first; each a sequence of remedies.
        advice: What is left for the user to do when nothing is better.

    Raises:
        ValueError: If there is no trial, or a trial holds anything but remedies.
    """

    uses_search: ClassVar[bool] = True
    trials: tuple[tuple[AbstractRemedy, ...], ...]
    advice: str = ""

    def __post_init__(self) -> None:
        call = "TryEach(trials=...)"
        sets = isinstance(self.trials, Sequence) and not isinstance(self.trials, str) and len(self.trials) > 0
        require(sets, call, "must be a sequence of sets of remedies", self.trials)
        object.__setattr__(self, "trials", tuple(as_rung(call, trial) for trial in self.trials))

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        if step.weights_changed or step.untouched:  # else the weights are known to be good: the data are at fault
            step.ask(self.question(finding))
        return None

    def question(self, finding: Finding) -> Question:
        """What it asks about a finding."""
        return Question(finding, self.trials, self.advice)
