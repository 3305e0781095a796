"""RECORD: incidents as a table in HTML, which notebooks show."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from lightning_gradguard.findings import Incident, shortlist

COLUMNS = ("steps", "kind", "layers", "detail", "done", "outcome", "advice")


class Incidents(tuple[Incident, ...]):
    """Incidents, which a notebook shows as a table.

    Example:
        >>> from lightning_gradguard.findings import Finding
        >>> incidents = Incidents([Incident.start(Finding("nonfinite", 7, detail="loss is nan"), ("SkipStep",))])
        >>> incidents._repr_html_().count("<tr>")
        2
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        return incident_table(self)


def incident_table(incidents: Iterable[Incident]) -> str:
    """One row for each incident."""
    rows = "".join(row("td", cells_of(incident)) for incident in incidents)
    return f"<table>{row('th', COLUMNS)}{rows}</table>"


def cells_of(incident: Incident) -> list[str]:
    """What the columns show of an incident."""
    return [
        incident.steps,
        incident.kind,
        shortlist(incident.layers),
        "; also ".join([incident.detail, *map(str, incident.symptoms)]),
        ", ".join(incident.actions),
        incident.outcome,
        incident.advice,
    ]


def row(tag: str, cells: Iterable[str]) -> str:
    """A row with left-aligned text."""
    return "<tr>" + "".join(f'<{tag} style="text-align: left">{escape(cell)}</{tag}>' for cell in cells) + "</tr>"
