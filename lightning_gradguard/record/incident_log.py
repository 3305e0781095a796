"""The incident log: one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping

from lightning_gradguard.findings import Incident
from lightning_gradguard.record.conforming import conforms
from lightning_gradguard.record.location import Location

INCIDENT_LOG = "incidents.jsonl"


Key = tuple[str, str, int]


class IncidentLog:
    """Writes the incidents of one run; what could not be written, or was deleted, is written the next time.

    Args:
        path: The log.
        versions: Of what runs here; written with every incident.
    """

    def __init__(self, path: Location, versions: Mapping[str, str] | None = None) -> None:
        self.path, self.versions = path, versions
        self._waiting: dict[Key, Incident] = {}
        self._written: dict[Key, Incident] = {}

    def add(self, incident: Incident) -> None:
        """Writes an incident that began, changed or ended."""
        self._waiting[key_of(incident)] = incident
        self.flush()

    def flush(self) -> None:
        """Writes what is waiting, and everything again where the log is missing."""
        if self._written and not self.path.exists():
            self._waiting, self._written = {**self._written, **self._waiting}, {}
        for key, incident in list(self._waiting.items()):
            append_incident(self.path, incident, self.versions)
            self._written[key] = self._waiting.pop(key)


def key_of(incident: Incident) -> Key:
    """What tells an incident from every other one of its run."""
    return incident.optimizer, incident.kind, incident.first_step


def append_incident(
    path: str | os.PathLike[str], incident: Incident, versions: Mapping[str, str] | None = None
) -> None:
    """Appends one line to the incident log; a later line about the same incident replaces this one."""
    plain = {**incident.to_dict(), "versions": dict(versions or {})}
    # Lone surrogates, which a file's name may hold, pass as they are.
    line = json.dumps(plain, ensure_ascii=False).encode("utf-8", "surrogatepass")
    Location(path).append(line + b"\n", new_line=True)


def read_incidents(path: str | os.PathLike[str]) -> tuple[Incident, ...]:
    """The incidents of a log, each in its latest form, in order of their first step.

    A line that is torn, or that something else wrote, is left out.
    """
    latest = {key_of(incident): incident for incident in _parse(Location(path).read().split(b"\n"))}
    return tuple(sorted(latest.values(), key=lambda incident: incident.first_step))


def _parse(lines: Iterable[bytes]) -> Iterable[Incident]:
    for line in lines:
        try:
            plain = json.loads(line.decode("utf-8", "surrogatepass"))
            incident = Incident.from_dict({name: value for name, value in plain.items() if name != "versions"})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
        if conforms(incident, Incident):
            yield incident
