"""Prints results to the terminal and, on request, into a section of a Markdown file."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path

import lightning
import torch
from rich.console import Console
from rich.table import Table


def publish(table: Table, file: str | None, section: str, threads: int = 1) -> None:
    """Prints the table; with `file`, also replaces the text between the two marks of the section in that file."""
    Console(width=160).print(table)
    if file is None:
        return
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    path = Path(file)
    text = path.read_text() if path.exists() else "# Results\n"
    body = f"{begin}\n{machine(threads)}\n\n{markdown(table)}\n{end}"
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    path.write_text(found.sub(lambda _: body, text) if found.search(text) else f"{text}\n{body}\n")


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson interval of a rate, 95 % by default (Wilson 1927, JASA 22).

    Example:
        >>> [round(bound, 3) for bound in wilson(8, 10)]
        [0.49, 0.943]
    """
    if not of:
        return 0.0, 1.0
    center = (hits + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(hits * (of - hits) / of + z * z / 4)
    return max(0.0, center - half), min(1.0, center + half)


def rate(hits: int, of: int) -> str:
    """A rate with its interval.

    Example:
        >>> rate(18, 29), rate(0, 0)
        ('18 of 29 = 62 % (44 to 77)', '-')
    """
    low, high = wilson(hits, of)
    return f"{hits} of {of} = {hits / of:.0%} ({100 * low:.0f} to {100 * high:.0f})".replace("%", " %") if of else "-"


def machine(threads: int = 1) -> str:
    """Machine and versions of the measurement."""
    each = f"{threads} threads" if threads > 1 else "one thread"
    return (
        f"{os.cpu_count()}-core CPU, torch {torch.__version__.split('+')[0]}, lightning {lightning.__version__}, "
        f"Python {platform.python_version()}, {each} for each run."
    )


def markdown(table: Table) -> str:
    """Converts a rich table into a Markdown table with its title."""
    columns = [[str(cell).replace("|", "\\|") for cell in column.cells] for column in table.columns]
    lines = [[str(column.header) for column in table.columns], ["---"] * len(columns), *zip(*columns, strict=True)]
    return "\n".join([f"{table.title}", "", *("| " + " | ".join(line) + " |" for line in lines)])
