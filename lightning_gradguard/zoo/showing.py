"""Cards and tables of the zoo for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lightning_gradguard.zoo.base import Case
from lightning_gradguard.zoo.running import BROKEN, Result


def cases_table(cases: Iterable[Case]) -> Table:
    """One line a case: name, what the guard calls its symptom, title, cures."""
    table = Table("case", "symptom", "what it is", "cures", title="lightning_gradguard.zoo")
    for case in cases:
        table.add_row(case.name, case.kind, case.title, ", ".join(case.cures))
    return table


def card(case: Case) -> RenderableType:
    """A case's card with its cures and the rows of the documents' list that it covers."""
    table = Table("cure", "rows", "holds", box=None, pad_edge=False)
    for name, cure in case.cures.items():
        table.add_row(name, ", ".join(cure.rows), "yes" if cure.holds else "no: see the card")
    rows = Text(
        f"symptom: {case.symptom.what}, sick {'above' if case.symptom.above else 'below'} {case.symptom.limit:g}"
    )
    return Panel(
        Group(Text(case.card), Text(""), rows, Text(f"shows: {', '.join(case.rows)}"), Text(""), table), title=case.name
    )


def results_table(case: Case, results: Sequence[Result]) -> Table:
    """The variants of a case side by side."""
    table = Table(title=f"{case.name}: {case.title}", caption=f"symptom: {case.symptom.what}", padding=(0, 0))
    for column in ("variant", "symptom", "sick", case.metric, "first/last", "slope", "guard says", "steps", "s"):
        table.add_column(column, overflow="fold")
    for result in results:
        kinds = ", ".join(dict.fromkeys(incident.kind for incident in result.incidents))
        table.add_row(
            Text(result.variant, style="bold red" if result.variant == BROKEN else ""),
            number(result.symptom), "yes" if result.sick else "no", number(result.metric), number(result.ratio),
            number(result.slope), kinds or "-", str(result.steps), f"{result.seconds:.1f}",
        )  # fmt: skip
    return table


def number(value: float) -> str:
    """Three digits, and a word for what is none.

    Example:
        >>> number(0.98765), number(float("nan"))
        ('0.988', '-')
    """
    return "-" if math.isnan(value) else f"{value:.3g}"
