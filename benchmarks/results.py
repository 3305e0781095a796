"""Prints results to the terminal and, on request, into a section of a Markdown file."""

from __future__ import annotations

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


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a rate by the score test; 95 % with the default `z`. Wilson 1927, JASA 22 (158), 209-212.

    Example:
        >>> low, high = wilson(18, 29)
        >>> round(low, 2), round(high, 2)
        (0.44, 0.77)
    """
    if of == 0:
        return 0.0, 1.0
    share, squared = hits / of, z * z / of
    centre = share + squared / 2
    spread = z * (share * (1 - share) / of + squared / of / 4) ** 0.5
    return max(0.0, (centre - spread) / (1 + squared)), min(1.0, (centre + spread) / (1 + squared))


def rate(hits: int, of: int) -> str:
    """A rate with its 95 % interval in percent.

    Example:
        >>> rate(18, 29)
        '18 of 29 = 62 % (44 to 77)'
    """
    if of == 0:
        return "-"
    low, high = wilson(hits, of)
    return f"{hits} of {of} = {100 * hits / of:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
