"""Descriptions and tables of cases, for the terminal."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lightning_gradguard.zoo.base import Case
from lightning_gradguard.zoo.running import BROKEN, Result

#: Line breaks in a card that do not start one of its sections.
WRAPPED_LINE = re.compile(r"(?<!\n)\n(?!\n|(?:Symptom|Cause|Cures|Does not help here|References)\b)")


def cases_text(cases: Iterable[Case], width: int) -> str:
    """A paragraph for each case: its name, the kind of finding and title, then its cures. No name is ever cut.

    Args:
        cases: The cases.
        width: Of the lines, in characters.

    Example:
        >>> from lightning_gradguard.zoo import get_case
        >>> print(cases_text([get_case("nan_log")], width=60))
        nan_log (nonfinite): log(0) in a custom cross-entropy
            log_softmax, he, clip_norm, lr_down
    """
    lines = []
    for case in cases:
        for text, indent in ((f"{case.name} ({case.kind}): {case.title}", ""), (", ".join(case.cures), "    ")):
            further = f"{indent}    "
            lines += textwrap.wrap(
                text, width, initial_indent=indent, subsequent_indent=further, break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(lines)


def card(case: Case) -> RenderableType:
    """A case's description, with its cures and the rows of `docs/documents.md` that it tests."""
    table = Table("cure", "advice", "works", box=None, pad_edge=False)
    for name, cure in case.cures.items():
        table.add_row(name, ", ".join(cure.advice), "yes" if cure.holds else "no, see above")
    symptom = case.symptom
    facts = Text(
        f"Measured: {symptom.description}; the symptom is present {'above' if symptom.above else 'below'} "
        f"{symptom.limit:g}.\nDemonstrates: {', '.join(case.statements)} (rows of docs/documents.md)."
    )
    text = WRAPPED_LINE.sub(" ", case.card)
    return Panel(Group(Text(text), Text(""), facts, Text(""), table), title=case.name)


def results_table(case: Case, results: Sequence[Result]) -> Table:
    """One row for each run of a case."""
    table = Table(
        title=f"{case.name}: {case.title}", caption=f"symptom value: {case.symptom.description}", padding=(0, 0)
    )
    for column in ("variant", "symptom", "value", case.metric, "first/last", "slope", "findings", "steps", "s"):
        table.add_column(column, overflow="fold")
    for result in results:
        numbers = (result.symptom, result.metric, result.ratio, result.slope)
        kinds = ", ".join(dict.fromkeys(incident.kind for incident in result.incidents))
        table.add_row(
            Text(result.variant, style="bold red" if result.variant == BROKEN else ""),
            "yes" if result.has_symptom else "no", *map(format_number, numbers),
            kinds or "-", str(result.steps), f"{result.seconds:.1f}",
        )  # fmt: skip
    return table


def format_number(value: float) -> str:
    """A number with three significant digits; `-` for NaN.

    Example:
        >>> format_number(0.98765), format_number(float("nan"))
        ('0.988', '-')
    """
    return "-" if math.isnan(value) else f"{value:.3g}"
