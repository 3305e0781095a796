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
