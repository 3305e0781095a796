"""ACT: try several remedies on the running model and keep those that help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from lightning_gradguard.arguments import require, require_number
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy, as_rung
from lightning_gradguard.renamed import renamed_fields
from lightning_gradguard.step.pending_step import PendingStep
from lightning_gradguard.step.remedy_search import Candidate


@renamed_fields(by_hand="advice")
@dataclass(frozen=True)
class TryEach(AbstractRemedy):
    """Tries sets of remedies one after another, each for a share of the planned steps and from the same start.

    The set with the lowest loss at the end of its trial is kept if it beats the start beyond chance. A set that is
    clearly better than anything before it ends the search at once. What did not help is undone exactly. A set with a
    remedy that does not apply is passed over, and so is one that was tried before. All trial steps are the run's own.

    What was tried is recorded as the incident's `trials`; its `actions` name only the set that was kept.

    Args:
        trials: The sets, most likely first; each a sequence of remedies.
        share: Of the planned steps, for each trial. Default chosen.
        advice: What is left for the user to do when nothing helped.
        clearly: A trial whose loss is below this share of anything before it ends the search. Default chosen.

    Raises:
        ValueError: If there is no trial, a trial holds anything but remedies, or a number is out of range.
    """

    uses_search: ClassVar[bool] = True
    trials: tuple[tuple[AbstractRemedy, ...], ...]
    share: float = 0.06
    advice: str = ""
    clearly: float = 0.7

    def __post_init__(self) -> None:
        call = "TryEach(trials=...)"
        sets = isinstance(self.trials, Sequence) and not isinstance(self.trials, str) and len(self.trials) > 0
        require(sets, call, "must be a sequence of sets of remedies", self.trials)
        object.__setattr__(self, "trials", tuple(as_rung(call, trial) for trial in self.trials))
        require_number("TryEach(share=...)", self.share, above=0, at_most=0.5)
        require_number("TryEach(clearly=...)", self.clearly, above=0, below=1)

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        if not (step.weights_changed or step.untouched):  # the weights are known to be good: the data are at fault
            return None
        candidates = [
            Candidate(
                trial,
                " + ".join(remedy.name for remedy in trial),
                next((remedy.cause for remedy in reversed(trial) if remedy.cause), finding.kind),
                tuple(partial(remedy.apply, finding, step) for remedy in trial),
            )
            for trial in self.trials
        ]
        step.try_each(finding, candidates, self.share, self.advice, self.clearly)
        return None
