"""The incident log: one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_gradguard.findings import Incident

INCIDENT_LOG = "incidents.jsonl"


def append_incident(path: Path, incident: Incident) -> None:
    """Appends one line to the incident log; a later line about the same incident replaces this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(incident.to_dict(), ensure_ascii=False) + "\n")


def read_incidents(path: Path) -> tuple[Incident, ...]:
    """The incidents of a log, each in its latest form, in order of their first step; torn lines are left out."""
    latest: dict[tuple[str, str, int], Incident] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            incident = Incident.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue
        latest[incident.optimizer, incident.kind, incident.first_step] = incident
    return tuple(sorted(latest.values(), key=lambda incident: incident.first_step))
