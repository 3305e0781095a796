"""RECORD: a run in a few sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from lightning_gradguard.collect.loss_level import Standing
from lightning_gradguard.findings import DEGRADED, HEALTHY, OPEN, RECOVERED, UNRECOVERABLE, Incident
from lightning_gradguard.record.incident_table import incident_table
from lightning_gradguard.step.model_changes import CodeChange

#: Best first. The place of a run's outcome here is the number that other callbacks can monitor.
OUTCOMES = (HEALTHY, RECOVERED, DEGRADED, UNRECOVERABLE)


@dataclass(frozen=True)
class Report:
    """A run: how many steps, and every incident.

    Args:
        steps: Optimizer steps.
        incidents: In order of their first step.
        verdict: Why training was stopped; empty when it was not.
        notes: What the report cannot know, a sentence each.
        changes: What remedies have changed in model and optimizer for the rest of the run.
        standings: Where the loss stands, for each optimizer.

    Example:
        >>> print(Report(steps=1000))
        GradGuard: 1000 steps, no incident.
    """

    steps: int
    incidents: tuple[Incident, ...] = ()
    verdict: str = ""
    notes: tuple[str, ...] = ()
    changes: tuple[CodeChange, ...] = ()
    standings: tuple[Standing, ...] = ()

    @property
    def outcome(self) -> str:
        """The outcome of the run.

        "unrecoverable" when the guard gave it up, "degraded" when it stands above its own best or an incident has not
        ended well, "recovered" when all incidents have, "healthy" without any. Notices, as of a layer that is never
        used, do not count.
        """
        outcomes = {incident.outcome for incident in self.incidents if not incident.is_notice}
        if UNRECOVERABLE in outcomes:
            return UNRECOVERABLE
        if outcomes & {OPEN, DEGRADED} or any(standing.is_degraded for standing in self.standings):
            return DEGRADED
        return RECOVERED if outcomes else HEALTHY

    @property
    def end(self) -> dict[str, int | str]:
        """What the tab shows of a run that has ended."""
        return {
            "steps": self.steps, "incidents": len(self.incidents), "outcome": self.outcome, "verdict": self.verdict,
        }  # fmt: skip

    @property
    def _losses(self) -> list[str]:
        return [
            (f"The median loss is {at.now:.3g}, {at.best:.3g} at its best; " if math.isfinite(at.best) else "")
            + f"{at.lost} of {self.steps} steps were skipped or rolled back."
            for at in self.standings
            if at.is_degraded
        ]

    @property
    def headline(self) -> str:
        """Steps, number of incidents of each kind, and outcome."""
        if self.outcome == HEALTHY and not self.incidents:
            return f"GradGuard: {self.steps} steps, no incident."
        kinds = Counter(incident.kind for incident in self.incidents)
        total = ": " + ", ".join(f"{times} {kind}" for kind, times in kinds.most_common()) if kinds else ""
        return f"GradGuard: {self.steps} steps, {len(self.incidents)} incident(s){total}; {self.outcome}."

    def __str__(self) -> str:
        incidents = [f"  {incident}" for incident in self.incidents]
        return "\n".join([self.headline, *incidents, *self._advice(), *self._remarks()])

    def _repr_html_(self) -> str:
        table = incident_table(self.incidents) if self.incidents else ""
        remarks = escape("\n".join(self._remarks()))
        return f"<p>{escape(self.headline)}</p>{table}" + (f"<pre>{remarks}</pre>" if remarks else "")

    def _remarks(self) -> list[str]:
        """What is said of the run as a whole."""
        return [*self._losses, *filter(None, [self.verdict]), *self.notes, *self._code()]

    def _advice(self) -> Iterator[str]:
        """What to change by hand, each advice once."""
        kinds: dict[str, dict[str, None]] = {}
        for incident in self.incidents:
            if incident.advice:
                kinds.setdefault(incident.advice, {})[incident.kind] = None
        yield from (f"  advice ({', '.join(names)}): {advice}" for advice, names in kinds.items())

    def _code(self) -> Iterator[str]:
        """What to write into the module, method by method."""
        for method in dict.fromkeys(change.method for change in self.changes):
            yield f"To begin the next run with the changes of this one, write at the end of `{method}`:"
            yield from (f"    {change}" for change in self.changes if change.method == method)
