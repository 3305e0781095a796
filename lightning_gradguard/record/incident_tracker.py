"""RECORD: findings of one kind, step after step, as one incident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lightning_gradguard.findings import RESOLVED, UNRECOVERABLE, Finding, Incident, Origin, TrialEvent


class IncidentTracker:
    """The open incidents of one optimizer, one for each kind.

    Args:
        optimizer: The optimizer's index when there are several; otherwise empty.
        origin: Asked in a step with a new incident: when and where it began.

    Example:
        >>> tracker = IncidentTracker()
        >>> nan = Finding("nonfinite", 7, detail="loss")
        >>> print(*tracker.update([(nan, ("SkipStep",))]))
        step 7: nonfinite: loss; SkipStep; open
        >>> print(*tracker.update([], is_over=lambda kind: True))
        step 7: nonfinite: loss; SkipStep; resolved
    """

    def __init__(self, optimizer: str = "", origin: Callable[[], Origin] = Origin) -> None:
        self.optimizer, self.origin = optimizer, origin
        self.incidents: dict[str, Incident] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "origin": Origin}  # a copy belongs to no run

    def update(
        self,
        answered: Sequence[tuple[Finding, tuple[str, ...]]],
        event: TrialEvent | None = None,
        is_over: Callable[[str], bool] = lambda kind: False,
        stopped_by: str = "",
    ) -> list[Incident]:
        """Takes in one step.

        Args:
            answered: Each finding with the names of the remedies that did something about it.
            event: What a search for a remedy has come to.
            is_over: Whether the symptom of a kind has ended.
            stopped_by: Kind of the finding whose remedy asked for the end of training; empty when none did.

        Returns:
            The incidents that began, changed their actions, trials or outcome, or ended in the step.
        """
        before = dict(self.incidents)
        is_new = any(finding.kind not in before for finding, _ in answered)
        origin = self.origin() if is_new else Origin()
        for finding, actions in answered:
            known = self.incidents.get(finding.kind)
            self.incidents[finding.kind] = (
                known.extended(finding, actions)
                if known
                else replace(Incident.start(finding, actions, self.optimizer), origin=origin)
            )
        if event is not None and event.about in self.incidents:
            self.incidents[event.about] = self.incidents[event.about].tried(event)
        if stopped_by in self.incidents:
            self.incidents[stopped_by] = self.incidents[stopped_by].closed(UNRECOVERABLE)
        changed = [incident for kind, incident in self.incidents.items() if is_news(incident, before.get(kind))]
        over = [kind for kind in self.incidents if is_over(kind)]
        return [*changed, *(self.incidents.pop(kind).closed(RESOLVED) for kind in over)]

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {kind: incident.to_dict() for kind, incident in self.incidents.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.incidents = {kind: Incident.from_dict(plain) for kind, plain in state.items()}


def is_news(now: Incident, before: Incident | None) -> bool:
    """Whether an incident differs from before in more than its count, steps and values."""
    if before is None:
        return True
    return (now.actions, now.trials, now.outcome) != (before.actions, before.trials, before.outcome)
