"""RECORD: a run in a few sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from lightning_gradguard.findings import OPEN, UNRECOVERABLE, Incident
from lightning_gradguard.step.model_changes import CodeChange


@dataclass(frozen=True)
class Report:
    """A run: how many steps, and every incident.

    Args:
        steps: Optimizer steps.
        incidents: In order of their first step.
        verdict: Why training was stopped; empty when it was not.
        notes: What the report cannot know, a sentence each.
        changes: What remedies have changed in model and optimizer for the rest of the run.

    Example:
        >>> print(Report(steps=1000))
        GradGuard: 1000 steps, no incident.
    """

    steps: int
    incidents: tuple[Incident, ...] = ()
    verdict: str = ""
    notes: tuple[str, ...] = ()
    changes: tuple[CodeChange, ...] = ()

    @property
    def outcome(self) -> str:
        """The worst outcome among the incidents: "healthy", "resolved", "open" or "unrecoverable"."""
        outcomes = {incident.outcome for incident in self.incidents}
        return next((o for o in (UNRECOVERABLE, OPEN) if o in outcomes), "resolved" if outcomes else "healthy")

    def __str__(self) -> str:
        if not self.incidents:
            return f"GradGuard: {self.steps} steps, no incident."
        kinds = Counter(incident.kind for incident in self.incidents)
        total = ", ".join(f"{times} {kind}" for kind, times in kinds.most_common())
        lines = [f"GradGuard: {self.steps} steps, {len(self.incidents)} incident(s): {total}; {self.outcome}."]
        lines += [f"  {incident}" for incident in self.incidents]
        return "\n".join([*lines, *filter(None, [self.verdict]), *self.notes, *self._code()])

    def _code(self) -> Iterator[str]:
        """What to write into the module, method by method."""
        for method in dict.fromkeys(change.method for change in self.changes):
            yield f"To begin the next run with the changes of this one, write at the end of `{method}`:"
            yield from (f"    {change}" for change in self.changes if change.method == method)
