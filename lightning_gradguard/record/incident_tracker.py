"""RECORD: findings of one kind, step after step, as one incident."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lightning_gradguard.findings import OPEN, RESOLVED, UNRECOVERABLE, Finding, Incident, Origin, TrialEvent

#: Each finding of a step with the names of the remedies that did something about it.
Answered = Sequence[tuple[Finding, tuple[str, ...]]]


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
        >>> print(*tracker.update([], is_over=lambda incident: True))
        step 7: nonfinite: loss; SkipStep; resolved
    """

    def __init__(self, optimizer: str = "", origin: Callable[[], Origin] = Origin) -> None:
        self.optimizer, self.origin = optimizer, origin
        self.incidents: dict[str, Incident] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "origin": Origin}  # a copy belongs to no run

    def update(
        self,
        answered: Answered,
        event: TrialEvent | None = None,
        is_over: Callable[[Incident], bool] = lambda incident: False,
        stopped_by: str = "",
        before: float = math.nan,
        now: float = math.nan,
        advise: Callable[[Finding], str] = lambda finding: "",
    ) -> list[Incident]:
        """Takes in one step.

        Args:
            answered: Each finding with the names of the remedies that did something about it. Findings without an
                incident of their own that were answered by the actions of others are symptoms of these.
            event: The outcome of an experiment.
            is_over: Whether an incident has ended well.
            stopped_by: Kind of the finding whose remedy asked for the end of training; empty when none did.
            before: Where the loss should come back to.
            now: Where the loss stands.
            advise: What to change by hand about the first finding of an incident.

        Returns:
            The incidents that began, changed their actions, trials or outcome, or ended in the step.
        """
        known = dict(self.incidents)
        main = next((finding.kind for finding, actions in answered if actions), None)
        own = {*known, event.about if event is not None else None}  # what a search is about is no symptom of another
        symptoms = [f for f, actions in answered if main and not actions and f.kind not in own]
        for finding, actions in answered:
            if finding not in symptoms:
                self._add(finding, actions, before, advise)
        if main is not None:
            self.incidents[main] = self.incidents[main].with_symptoms(symptoms)
        origin = self.origin() if self.incidents.keys() - known.keys() else Origin()
        for kind in self.incidents.keys() - known.keys():
            self.incidents[kind] = replace(self.incidents[kind], origin=origin)
        if event is not None and event.about in self.incidents:
            self.incidents[event.about] = self.incidents[event.about].tried(event)
        if stopped_by in self.incidents:
            self.incidents[stopped_by] = self.incidents[stopped_by].closed(UNRECOVERABLE, now)
        changed = [incident for kind, incident in self.incidents.items() if is_news(incident, known.get(kind))]
        over = [kind for kind, incident in self.incidents.items() if is_over(incident)]
        return [*changed, *(self.incidents.pop(kind).closed(RESOLVED, now) for kind in over)]

    def _add(self, finding: Finding, actions: tuple[str, ...], before: float, advise: Callable[[Finding], str]) -> None:
        known = self.incidents.get(finding.kind)
        self.incidents[finding.kind] = (
            known.extended(finding, actions)
            if known
            else Incident.start(finding, actions, self.optimizer, before, advise(finding))
        )

    def close(self, outcome_of: Callable[[Incident], str], now: float = math.nan) -> list[Incident]:
        """At the end of the run: the incidents that were still open, with their outcomes."""
        ended = {
            kind: incident.closed(outcome_of(incident), now)
            for kind, incident in self.incidents.items()
            if incident.outcome == OPEN
        }
        self.incidents = {kind: incident for kind, incident in ended.items() if incident.outcome == OPEN}
        return list(ended.values())

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {kind: incident.to_dict() for kind, incident in self.incidents.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.incidents = {kind: Incident.from_dict(plain) for kind, plain in state.items()}


def is_news(now: Incident, before: Incident | None) -> bool:
    """Whether an incident differs from before in more than its count, steps and values."""
    return before is None or told(now) != told(before)


def told(incident: Incident) -> tuple[Any, ...]:
    """What is told of an incident at once, not only at its end."""
    kinds = {symptom.kind for symptom in incident.symptoms}
    return incident.actions, kinds, incident.trials, incident.outcome
