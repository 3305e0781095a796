"""ACT: try several cures on the running model and keep the one that helps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class TryEach(AbstractRemedy):
    """Tries sets of remedies one after another, each for a share of the planned steps and from the same start.

    The set with the lowest loss at the end of its trial is kept if it beats the start beyond chance; one that is
    clearly better than anything before it ends the search at once. What did not help is undone exactly. A set that
    holds a remedy with nothing to do is passed over. All trial steps are the run's own steps.

    Args:
        trials: The sets, most likely first.
        share: Of the planned steps, for each trial. Chosen.
        by_hand: What is left for the user to do when nothing helped.
        clearly: A trial whose loss is below this share of anything before it ends the search. Chosen.

    Raises:
        ValueError: If there is no trial, or `share` is not in (0, 0.5].
    """

    reversible: ClassVar[bool] = False
    uses_search: ClassVar[bool] = True
    trials: tuple[tuple[AbstractRemedy, ...], ...]
    share: float = 0.06
    by_hand: str = ""
    clearly: float = 0.7

    def __post_init__(self) -> None:
        if not self.trials:
            raise ValueError("`TryEach(trials=...)` must hold at least one set of remedies, got none.")
        if not 0 < self.share <= 0.5:
            raise ValueError(f"`TryEach(share=...)` must be in (0, 0.5], got {self.share!r}.")
        if not 0 < self.clearly < 1:
            raise ValueError(f"`TryEach(clearly=...)` must be between 0 and 1, got {self.clearly!r}.")

    def apply(self, finding: Finding, step: PendingStep) -> str:
        if not step.damage:  # the weights are still those that were healthy: the data are at fault
            return ""
        candidates = [
            (
                " + ".join(remedy.name for remedy in trial),
                next((remedy.cures for remedy in reversed(trial) if remedy.cures), finding.kind),
                [partial(remedy.apply, finding, step) for remedy in trial],
            )
            for trial in self.trials
        ]
        return step.try_each(finding, candidates, self.share, self.by_hand, self.clearly)
