"""Every row of docs/documents.md is tested by the cases that it names."""

import re
from pathlib import Path

import pytest

from lightning_gradguard import fixes, zoo

PAGE = (Path(__file__).parent.parent / "docs" / "documents.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: cells
    for line in PAGE.splitlines()
    if re.match(r"\| [SF]\d+ \|", line) and (cells := [cell.strip() for cell in line.strip("|").split("|")])
}
CASES = {case.name: case for case in zoo.list_cases()}


def names(cell: str) -> list[str]:
    return re.findall(r"\b[a-z0-9_]+\b", cell.removeprefix("does not help: "))


def test_the_tables_are_complete():
    assert list(ROWS) == [f"S{i}" for i in range(1, 13)] + [f"F{i}" for i in range(1, 15)]


@pytest.mark.parametrize("row", ROWS)
def test_the_cases_of_a_row_cover_it(row):
    cited = names(ROWS[row][-1])
    assert cited
    for name in cited:
        assert row in CASES[name].covers, f"{name} does not cover {row}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("F")])
def test_a_cure_helps_where_the_row_says_so(row):
    no = ROWS[row][-1].startswith("does not help")
    for name in names(ROWS[row][-1]):
        holds = [cure.holds for cure in CASES[name].cures.values() if row in cure.advice]
        assert any(holds) != no, (name, row)


@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("F")])
def test_its_functions_exist(row):
    functions = re.findall(r"`(\w+)`", ROWS[row][4])
    assert functions
    assert set(functions) <= set(fixes.list_fixes())


def test_every_row_that_a_case_covers_exists():
    covered = {row for case in CASES.values() for row in case.covers}
    assert covered == set(ROWS)
