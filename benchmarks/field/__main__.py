"""Programs that other people published as broken: named, repaired, and is the fixed version left alone?

    python benchmarks/field [--seeds 3] [--programs NAME ...] [--tools NAME ...] [--marks] [--markdown FILE]

A program's mark lies between its faulty and its fixed version, set from these two alone (`--marks` checks that at least
two of three seeds are on the right side). `inside` programs can be cured within a run; for the others the loss, the
output or the data have to be changed, so that a guard can only name the cause. A faulty run that reaches the mark by
itself does not count for that seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import classes  # noqa: E402
import images  # noqa: E402
import regressions  # noqa: E402
import sequences  # noqa: E402
from parallel import every  # noqa: E402
from peers import REPAIR, WITH_REPAIR  # noqa: E402
from published import Program, train  # noqa: E402
from recipes.base import digest, quiet  # noqa: E402
from results import publish, rate  # noqa: E402
from rich.table import Table  # noqa: E402

from lightning_gradguard import GradGuard  # noqa: E402

NONE, PROTECT = "no guard", "GradGuard"
PROGRAMS = {p.name: p for m in (classes, regressions, images, sequences) for p in m.PROGRAMS}
#: Programs that were ported and do not count, and why.
EXCLUDED = {
    "recurrent weights above the identity (arXiv 1504.00941)": "the broken version learns as well as the fixed one",
    "KerasGAN (github.com/osh/KerasGAN, issue 14)": "two optimizers: no single loss can rank cures there",
}
FAULTY, FIXED = "faulty", "fixed"


@dataclass(frozen=True)
class Ending:
    """How a variant ended with a tool: measure, hash of the weights, time, incidents, what was said."""

    measure: float
    learned: str
    seconds: float
    kinds: tuple[str, ...] = ()
    story: str = ""
    error: str = ""


def judge(name: str, variant: str, seed: int, tool: str) -> Ending:
    """Trains a variant with a tool."""
    quiet()
    callbacks, options = WITH_REPAIR[tool]()
    begun, error, setup = time.process_time(), "", None
    try:
        setup = train(PROGRAMS[name], variant, seed, callbacks, options)
    except Exception as raised:  # a tool that ends the run
        error = f"{type(raised).__name__}: {raised}"[:200]
    seconds = time.process_time() - begun
    report = next((c.report() for c in callbacks if isinstance(c, GradGuard)), None)
    kinds = tuple(sorted({i.kind for i in report.incidents})) if report else ()
    learned = digest(setup.net.state_dict()) if setup else ""
    return Ending(setup.measure() if setup else 0.0, learned, seconds, kinds, str(report or ""), error)


Ended = dict[Any, Ending]


def check_marks(ended: Ended, programs: list[Program], seeds: range) -> int:
    """Prints both versions beside the mark; 1 if a program does not separate."""
    table = Table("program", "mark", FAULTY, FIXED, "")
    bad = 0
    for p in programs:
        faulty, fixed = ([ended[p.name, v, s, NONE].measure for s in seeds] for v in (FAULTY, FIXED))
        apart = all(
            sum(side) >= len(seeds) * 2 / 3 for side in ([m < p.mark for m in faulty], [m >= p.mark for m in fixed])
        )
        bad += not apart
        measures = (" ".join(f"{m:.2f}" for m in side) for side in (faulty, fixed))
        table.add_row(p.name, f"{p.mark}", *measures, "" if apart else "NOT APART")
    publish(table, None, "marks")
    return int(bad > 0)


def column(ended: Ended, programs: list[Program], seeds: range, tool: str) -> list[str]:
    """The rates of one tool."""
    broken = {
        inside: [
            (p, ended[p.name, FAULTY, s, tool])
            for p in programs
            for s in seeds
            if p.inside == inside and ended[p.name, FAULTY, s, NONE].measure < p.mark
        ]
        for inside in (True, False)
    }
    well = [(p, ended[p.name, FIXED, s, tool], ended[p.name, FIXED, s, NONE]) for p in programs for s in seeds]
    well = [row for row in well if row[2].measure >= row[0].mark]
    ours = any(e.story for side in broken.values() for _, e in side)
    cells = []
    for inside in (True, False):
        side = broken[inside]
        cells.append(rate(sum(e.measure >= p.mark for p, e in side), len(side)))
        named = [bool(set(p.kinds) & set(e.kinds)) for p, e in side]
        cells += [
            rate(sum(bool(e.kinds) for _, e in side), len(side)) if ours else "-",
            rate(sum(named), len(named)) if ours else "-",
        ]
    ratio = [
        ended[p.name, FAULTY, s, tool].seconds / max(ended[p.name, FAULTY, s, NONE].seconds, 1e-3)
        for p in programs
        for s in seeds
    ]
    return [
        *cells,
        rate(sum(e.measure < p.mark for p, e, _ in well), len(well)),
        rate(sum(e.learned != alone.learned for _, e, alone in well), len(well)),
        rate(sum(bool(e.kinds) for _, e, _ in well), len(well)) if ours else "-",
        f"{median(ratio):.2f}",
    ]


ROWS = (
    "curable inside: repaired", "- reported", "- right cause among the incidents", "outside: ends well",
    "- reported", "- right cause among the incidents", "fixed versions: harmed", "- weights changed", "- reported",
    "time of a faulty run (median)",
)  # fmt: skip


def main() -> int:
    """A table, and a line for every miss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--programs", nargs="*", default=list(PROGRAMS))
    parser.add_argument("--tools", nargs="*", default=[PROTECT, REPAIR])
    parser.add_argument("--marks", action="store_true", help="only check the marks")
    parser.add_argument("--cache", help="folder for finished runs, so that an interrupted benchmark continues")
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    options = parser.parse_args()
    programs, seeds = [PROGRAMS[name] for name in options.programs], range(options.seeds)
    tools = [] if options.marks else [tool for tool in options.tools if tool != NONE]
    jobs = [(p.name, v, s, t) for p in programs for v in (FAULTY, FIXED) for s in seeds for t in (NONE, *tools)]
    ended = every(judge, jobs, options.cache)
    if options.marks:
        return check_marks(ended, programs, seeds)
    inside = sum(p.inside for p in programs)
    title = f"{len(programs)} published programs, {inside} of them curable inside a run, {len(seeds)} seed(s)"
    table = Table("", *tools, title=title)
    for cells in zip(ROWS, *(column(ended, programs, seeds, tool) for tool in tools), strict=True):
        table.add_row(*cells)
    publish(table, options.markdown, "field")
    for tool in tools:
        for p in programs:
            for s in seeds:
                for v in (FAULTY, FIXED):
                    e, alone = ended[p.name, v, s, tool], ended[p.name, v, s, NONE]
                    if e.measure < p.mark and ((v == FAULTY and p.inside) or (v == FIXED and alone.measure >= p.mark)):
                        print(f"{tool}: {v} {p.name}, seed {s}: {e.measure:.2f} of {p.mark}. {e.error} {e.story}")
    for name, why in EXCLUDED.items():
        print(f"not counted: {name}: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
