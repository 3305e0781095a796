"""RECORD: what a run has shown so far, for the attributes of the guard."""

from __future__ import annotations

from collections import deque
from typing import Any

from lightning_gradguard.collect.loss_level import standing_of
from lightning_gradguard.findings import OPEN, Finding, Incident, StepReport
from lightning_gradguard.record.incident_table import Incidents
from lightning_gradguard.record.incident_tracker import IncidentTracker
from lightning_gradguard.record.report import Report
from lightning_gradguard.step.model_changes import CodeChange


class RunRecord:
    """What one run has shown so far, as plain values.

    Args:
        kept: How many findings and how many closed incidents are kept.
    """

    def __init__(self, kept: int) -> None:
        self.findings: deque[Finding] = deque(maxlen=kept)
        self.closed: deque[Incident] = deque(maxlen=kept)
        self.trackers: list[IncidentTracker] = []  # of each optimizer
        self.levels: dict[str, dict[str, Any]] = {}  # where the loss of each optimizer stands
        self.last_report: StepReport | None = None
        self.changes: list[CodeChange] = []  # those that are in force in the model
        self.steps, self.stop_reason = 0, ""
        self.home = ""  # the directory with the run's files; empty where none are written

    @property
    def incidents(self) -> Incidents:
        """Closed incidents, then the open ones."""
        known = (incident for tracker in self.trackers for incident in tracker.incidents.values())
        return Incidents((*self.closed, *(incident for incident in known if incident.outcome == OPEN)))

    def add(self, report: StepReport, changed: list[Incident], level: dict[str, Any]) -> None:
        """One more step, or more about the last one.

        Args:
            report: What was measured, found and done.
            changed: Incidents that began, changed or ended.
            level: Where the loss stands (`collect.loss_level`).
        """
        self.levels[report.optimizer] = level
        self.last_report, self.steps = report, max(self.steps, report.stats.step + 1)
        self.findings.extend(report.findings)
        if changed:
            self.closed.extend(incident for incident in changed if incident.outcome != OPEN)
        self.stop_reason = report.outcome.stop_reason or self.stop_reason

    def report(self) -> Report:
        """The run in a few sentences."""
        standings = tuple(standing_of(level, self.steps) for level in self.levels.values())
        incidents = tuple(sorted(self.incidents, key=lambda i: i.first_step))
        return Report(self.steps, incidents, self.stop_reason, changes=tuple(self.changes), standings=standings)


class SharedRecord:
    """The record of the run that began last, in common to a guard and its deep copies.

    Libraries copy the callbacks that they are given and train with the copies.

    Example:
        >>> import copy
        >>> shared = SharedRecord(RunRecord(kept=100))
        >>> copy.deepcopy(shared) is shared
        True
    """

    def __init__(self, latest: RunRecord) -> None:
        self.latest = latest

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedRecord:
        return self
