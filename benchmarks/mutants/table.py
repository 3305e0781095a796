"""The table of all mutants, and a line for each that went wrong under a tool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from results import rate
from rich.table import Table

from mutants.mutant import Mutant
from mutants.operators import STATIC, SUDDEN
from mutants.runs import Ending, Job
from mutants.tools import ALONE, OURS


@dataclass(frozen=True)
class Case:
    """One mutant, what came of it, and the quality below which it is broken."""

    number: int
    mutant: Mutant
    limit: float
    endings: Mapping[str, Ending]

    @property
    def killed(self) -> bool:
        """Whether it is broken without a tool."""
        return self.broken(ALONE)

    def broken(self, tool: str) -> bool:
        """Whether it is broken with a tool."""
        return self.endings[tool].quality < self.limit

    def changed(self, tool: str) -> bool:
        """Whether the tool changed any bit of the final weights."""
        return self.endings[tool].weights != self.endings[ALONE].weights

    def reported(self, tool: str) -> bool:
        """Whether the tool reported anything."""
        return self.endings[tool].reported

    def right(self, tool: str) -> bool:
        """Whether an incident names the right cause."""
        return not self.mutant.kinds.isdisjoint(self.endings[tool].kinds)


def gather(numbers: Mapping[int, Mutant], limits: Mapping[str, float], endings: Mapping[Job, Ending]) -> list[Case]:
    """The cases whose healthy run succeeds."""
    tools = list(dict.fromkeys(tool for _, tool in endings))
    return [
        Case(number, mutant, limits[mutant.recipe], {tool: endings[mutant, tool] for tool in tools})
        for number, mutant in numbers.items()
        if endings[mutant.healthy, ALONE].quality >= limits[mutant.recipe]
    ]


def table(cases: Sequence[Case], tools: Sequence[str], title: str) -> Table:
    """One row per measure, one column per tool."""
    found = Table("", *tools, title=title)
    killed, survivors = [c for c in cases if c.killed], [c for c in cases if not c.killed]
    found.add_row("killed by the mutation", *[rate(len(killed), len(cases))] * len(tools))
    _rows(found, tools, "killed: repaired", killed, lambda case, tool: not case.broken(tool))
    _rows(found, tools, "killed: reported", killed, Case.reported, OURS)
    _rows(found, tools, "killed: right cause", killed, Case.right, OURS)
    _rows(found, tools, "survivors: harmed", survivors, Case.broken)
    _rows(found, tools, "survivors: changed", survivors, Case.changed)
    _rows(found, tools, "survivors: reported", survivors, Case.reported, OURS)
    found.add_row("time relative to no guard (median)", *(slowdown(cases, tool) for tool in tools))
    return found


def _rows(
    found: Table, tools: Sequence[str], name: str, cases: Sequence[Case], holds: Callable[[Case, str], bool],
    only: Sequence[str] = (),
) -> None:  # fmt: skip
    for onset in ("", STATIC, SUDDEN):
        some = [case for case in cases if onset in ("", case.mutant.onset)]
        cells = [rate(sum(holds(c, t) for c in some), len(some)) if not only or t in only else "-" for t in tools]
        found.add_row(f"{name}, {onset}" if onset else name, *cells, end_section=onset == SUDDEN)


def slowdown(cases: Sequence[Case], tool: str) -> str:
    """Processor time with the tool divided by the time without it."""
    ratios = [case.endings[tool].seconds / max(case.endings[ALONE].seconds, 1e-9) for case in cases]
    return f"{median(ratios):.2f}" if ratios else "-"


def lines(cases: Sequence[Case], tools: Sequence[str]) -> Iterator[str]:
    """A line per mutant that a tool did not repair, and per survivor that it harmed, changed or spoke of."""
    for case in cases:
        for tool in tools:
            word = verdict(case, tool)
            if word:
                ending = case.endings[tool]
                told = "; ".join(filter(None, [ending.error, *ending.incidents[:2]])) or "no incident"
                measures = f"{ending.quality:.3f}, alone {case.endings[ALONE].quality:.3f}, limit {case.limit:.3f}"
                yield f"{case.number} {word} by {tool}: {case.mutant}: {measures}: {told}"


def verdict(case: Case, tool: str) -> str:
    """What went wrong; empty if nothing did."""
    if case.killed:
        return "not repaired" * case.broken(tool)
    harm = "harmed" * case.broken(tool) or "changed" * case.changed(tool)
    return harm or "reported" * (tool in OURS and case.reported(tool))
