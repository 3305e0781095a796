"""Which random mutants of healthy recipes does a guard repair, and which others does it harm?

    python -m benchmarks.mutants [--count 500] [--first N] [--half odd|even] [--only NUMBER ...] [--tools NAME ...]
        [--jobs N] [--out FOLDER] [--markdown FILE]

A mutant is a recipe of `recipes/` that one operator of `operators/` has broken, more or less: both, the severity and
the seed are drawn at random by the mutant's number, and none is left out afterward. It is killed if its final quality
on held-out data falls below the healthy mean of five seeds by more than three points and more than four standard
deviations of those seeds. Otherwise it survives, and a guard should not harm it, though it may say what is wrong. A
mutant whose run without the fault is broken too is not counted. Some killed mutants are beyond repair, as those with
wrong labels. The idea is DeepCrime's (Humbatova, Jahangirova and Tonella 2021, ISSTA).

Thresholds may be tuned on the odd numbers and are reported on the even ones. Every run is kept as a line in `--out`:
the same command continues where it was interrupted. The lines do not notice changes of the package: use another
folder after any change. `--healthy` measures the five seeds of every recipe again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from results import publish  # noqa: E402

from mutants.healthy import limits, measure  # noqa: E402
from mutants.mutant import mutant  # noqa: E402
from mutants.runs import endings  # noqa: E402
from mutants.table import gather, lines, table  # noqa: E402
from mutants.tools import ALONE, PROTECT, REPAIR, TOOLS  # noqa: E402


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--half", choices=("odd", "even"))
    parser.add_argument("--only", type=int, nargs="+", help="numbers, in place of the first --count")
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=[PROTECT, REPAIR], metavar="NAME")
    parser.add_argument("--jobs", type=int, help="processes; by default one per core")
    parser.add_argument("--out", type=Path, default=Path("mutant_runs"), help="folder for finished runs")
    parser.add_argument("--healthy", action="store_true", help="measure the healthy recipes and write healthy.json")
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    return parser.parse_args(words)


def chosen(options: argparse.Namespace) -> Iterable[int]:
    """The numbers."""
    numbers = options.only or range(options.first, options.first + options.count)
    return [n for n in numbers if options.half in (None, "odd" if n % 2 else "even")]


def main() -> None:
    """The table, and a line for everything that went wrong."""
    options = arguments()
    if options.healthy:
        return measure(options.out, options.jobs)
    numbers = {number: mutant(number) for number in chosen(options)}
    tools = list(dict.fromkeys([ALONE, *options.tools]))
    jobs = [(m, tool) for m in numbers.values() for tool in tools]
    found = endings([*((m.healthy, ALONE) for m in numbers.values()), *jobs], options.out, options.jobs)
    cases = gather(numbers, limits(), found)
    half = f"{options.half} numbers only, " if options.half else ""
    title = f"Mutants {min(numbers)} to {max(numbers)}: {half}{len(cases)} of {len(numbers)} with a healthy twin"
    publish(table(cases, tools[1:], title), options.markdown, f"mutants {options.half or ''}".strip())
    print(*lines(cases, tools[1:]), sep="\n")


if __name__ == "__main__":
    main()
