"""RECORD: findings of one kind, step after step, told as one incident."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning_gradguard.findings import OPEN, RESOLVED, UNRECOVERABLE, Finding, Incident
from lightning_gradguard.policy.ladders import LadderStates


class IncidentTracker:
    """The open incidents of one optimizer, one for each kind.

    Args:
        optimizer: The optimizer's index when there are several; otherwise empty.

    Example:
        >>> episodes = IncidentTracker()
        >>> nan = Finding("nonfinite", 7, detail="loss")
        >>> print(*episodes.update([(nan, ("SkipStep",))], {"nonfinite": [1, 0]}, calm=3))
        step 7: nonfinite: loss; SkipStep; open
        >>> print(*episodes.update([], {"nonfinite": [1, 3]}, calm=3))
        step 7: nonfinite: loss; SkipStep; resolved
    """

    def __init__(self, optimizer: str = "") -> None:
        self.optimizer = optimizer
        self.incidents: dict[str, Incident] = {}

    def update(
        self, done: Sequence[tuple[Finding, tuple[str, ...]]], standing: LadderStates, calm: int
    ) -> list[Incident]:
        """Takes in one step and returns the incidents that began, gained an action or ended in it.

        Args:
            done: Each finding with the names of the remedies applied to it.
            standing: Where each kind stands after the step.
            calm: Healthy steps after which an incident counts as resolved.
        """
        changed: list[Incident] = []
        if not done and not self.incidents:
            return changed
        for finding, actions in done:
            known = self.incidents.get(finding.kind)
            incident = known.extended(finding, actions) if known else Incident.start(finding, actions, self.optimizer)
            if "Stop" in actions:
                incident = incident.closed(UNRECOVERABLE)
            if known is None or incident.actions != known.actions or incident.outcome != OPEN:
                changed.append(incident)
            self.incidents[finding.kind] = incident
        over = [kind for kind in self.incidents if kind not in standing or standing[kind][1] >= calm]
        changed += [self.incidents.pop(kind).closed(RESOLVED) for kind in over]
        return changed

    def act(self, kind: str, actions: tuple[str, ...]) -> list[Incident]:
        """Adds what was done about an open incident while its symptom was not looked for."""
        known = self.incidents[kind]
        self.incidents[kind] = replace(known, actions=(*known.actions, *actions))
        return [self.incidents[kind]]

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {kind: incident.to_dict() for kind, incident in self.incidents.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.incidents = {kind: Incident.from_dict(plain) for kind, plain in state.items()}
