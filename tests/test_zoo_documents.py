"""The project's list of what the documents say is covered by cases that claim it."""

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
    return re.findall(r"\b[a-z0-9_]+\b", cell.removeprefix("does not hold: "))


def test_the_list_is_whole():
    assert list(ROWS) == [f"S{i}" for i in range(1, 13)] + [f"F{i}" for i in range(1, 15)]


@pytest.mark.parametrize("row", ROWS)
def test_the_cases_of_a_row_claim_it(row):
    cited = names(ROWS[row][-1])
    assert cited
    for name in cited:
        assert row in CASES[name].documented, f"{name} does not claim {row}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("F")])
def test_a_cure_holds_where_the_row_says_so(row):
    no = ROWS[row][-1].startswith("does not hold")
    for name in names(ROWS[row][-1]):
        claims = [cure.holds for cure in CASES[name].cures.values() if row in cure.rows]
        assert any(claims) != no, (name, row)


@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("F")])
def test_its_functions_exist(row):
    functions = re.findall(r"`(\w+)`", ROWS[row][4])
    assert functions
    assert set(functions) <= set(fixes.list_fixes())


def test_every_claim_is_on_the_list():
    claimed = {row for case in CASES.values() for row in case.documented}
    assert claimed == set(ROWS)
