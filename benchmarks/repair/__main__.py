"""How many failing runs are detected and repaired during the run, and are their healthy twins left unchanged?

    python benchmarks/repair [--seeds 3] [--cases NAME ...] [--tools NAME ...] [--markdown FILE]

Every case is a program in two variants: failing, and with the documented cure (its twin). A failing run counts as
repaired only if its final quality on held-out data reaches the case's target within the same number of optimizer steps.
A case whose twin fails for a seed, or whose failing variant reaches the target without any tool, is excluded for that
seed. The cases were chosen to be clear-cut: the rates compare tools and do not estimate how often a guard helps in
practice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import arithmetic  # noqa: E402, F401  (registers its cases)
import pace  # noqa: E402, F401
import still  # noqa: E402, F401
import sudden  # noqa: E402, F401
import wider  # noqa: E402, F401
from cases import CASES  # noqa: E402
from cures import OURS, tools  # noqa: E402
from parallel import every  # noqa: E402
from recipes.base import digest, run  # noqa: E402
from results import publish  # noqa: E402
from rich.table import Table  # noqa: E402

from lightning_gradguard import GradGuard  # noqa: E402


@dataclass(frozen=True)
class Ending:
    """Result of one run under one tool.

    Args:
        quality: Final quality on held-out data.
        success: Whether `quality` reaches the case's target.
        seconds: Processor time of the fit, which other processes on the machine hardly affect.
        alarm: First step of any incident at or after the fault's onset; None without one.
        right: First step of an incident with a correct kind; None without one.
        layer: Whether such an incident names the case's layer.
        weights: A digest of the final weights and buffers.
        incidents: The incidents as text.
        advice: Whether it ended with a recommendation of what to change manually.
    """

    quality: float
    success: bool
    seconds: float
    alarm: int | None = None
    right: int | None = None
    layer: bool = False
    weights: str = ""
    incidents: tuple[str, ...] = ()
    advice: bool = False


def judge(name: str, broken: bool, tool: str, seed: int) -> Ending:
    """Runs one variant of a case under one tool."""
    case, quality = CASES[name], [lambda net: 0.0]
    steps = case.build(broken).steps

    def program():  # built after the run's seed is set
        built = case.build(broken)
        quality[0] = built.quality
        return built.program

    callbacks, options = tools(seed)[tool]()
    outcome = run(program, seed, steps, callbacks, **options)
    reached = quality[0](outcome.module)
    guards = [callback for callback in callbacks if isinstance(callback, GradGuard)]
    incidents = [i for guard in guards for i in guard.incidents if i.last_step >= case.onset]
    right = [i for i in incidents if i.kind in case.kinds]
    return Ending(
        reached, reached >= case.enough, outcome.seconds,
        min((i.first_step for i in incidents), default=None), min((i.first_step for i in right), default=None),
        any(case.layer in i.layers for i in right), digest(outcome.state), tuple(map(str, incidents)),
        any(incident.advice for incident in incidents),
    )  # fmt: skip


def share(part: Iterable[bool]) -> str:
    """Formats a share: `12/20 = 60 %`."""
    flags = list(part)
    return f"{sum(flags)}/{len(flags)} = {100 * sum(flags) / len(flags):.0f} %" if flags else "-"


def touched(endings: dict[tuple, Ending], name: str, tool: str, seed: int) -> bool:
    """Whether the tool changed the final weights of a healthy twin."""
    return endings[name, False, tool, seed].weights != endings[name, False, "no guard", seed].weights


def is_valid(endings: dict[tuple, Ending], name: str, seed: int) -> bool:
    """Whether the pair is valid: the twin reaches the target, and the failing variant alone does not."""
    return endings[name, False, "no guard", seed].success and not endings[name, True, "no guard", seed].success


def summary(endings: dict[tuple, Ending], names: list[str], columns: list[str], seeds: int) -> Table:
    """One row per measure, one column per tool."""
    valid = [(n, s) for n in names for s in range(seeds) if is_valid(endings, n, s)]
    curable = [(n, s) for n, s in valid if CASES[n].curable]
    rows: dict[str, list[str]] = {}
    for tool in columns:
        broken, twins = (
            {k: endings[k[0], True, tool, k[1]] for k in valid},
            [endings[n, False, tool, s] for n, s in valid],
        )
        ours = tool in OURS
        late = [e.alarm - CASES[n].onset for (n, _), e in broken.items() if e.alarm is not None]
        ratio = [
            broken[k].seconds / endings[k[0], False, "no guard", k[1]].seconds for k in curable if broken[k].success
        ]
        cells = {
            "repaired": share(broken[k].success for k in curable),
            "detected": share(e.alarm is not None for e in broken.values()) if ours else "-",
            "correct kind": share(e.right is not None for e in broken.values()) if ours else "-",
            "correct layer": share(broken[k].layer for k in valid if CASES[k[0]].layer) if ours else "-",
            "program errors: ended with a recommendation": share(
                broken[k].advice for k in valid if not CASES[k[0]].curable
            )
            if ours
            else "-",
            "steps to the first incident (median)": f"{median(late):g}" if late else "-",
            "twins: false alarms": share(bool(e.incidents) for e in twins) if ours else "-",
            "twins: weights changed": share(touched(endings, n, tool, s) for n, s in valid)
            if tool != "no guard"
            else "-",
            "twins: failed": share(not e.success for e in twins),
            "time of a repaired run relative to its twin": f"{sum(ratio) / len(ratio):.2f}" if ratio else "-",
        }
        for measure, cell in cells.items():
            rows.setdefault(measure, []).append(cell)
    table = Table("", *columns, title=f"Repair: {len(names)} cases, {seeds} seeds, {len(valid)} valid pairs")
    for measure, row in rows.items():
        table.add_row(measure, *row)
    return table


def by_case(endings: dict[tuple, Ending], names: list[str], columns: list[str], seeds: int) -> Table:
    """One row per case: number of runs that reached the target."""
    table = Table("case", "source", "failing alone", "twin", *columns, title="Runs that reached the target")
    for n in names:

        def wins(broken: bool, tool: str, n: str = n) -> str:
            return f"{sum(endings[n, broken, tool, s].success for s in range(seeds))}/{seeds}"

        note = "" if CASES[n].curable else " (program error)"
        table.add_row(
            n + note,
            CASES[n].source,
            wins(True, "no guard"),
            wins(False, "no guard"),
            *(wins(True, t) for t in columns),
        )
    return table


def main() -> int:
    """Two tables, and every run that `repair` failed to repair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--tools", nargs="*", default=list(tools(0)))
    parser.add_argument("--cache", help="folder for finished runs, so that an interrupted benchmark continues")
    parser.add_argument("--markdown", help="file whose sections with these tables are replaced")
    args = parser.parse_args()
    columns = ["no guard", *(tool for tool in args.tools if tool != "no guard")]
    jobs = [
        (n, broken, t, s) for s in range(args.seeds) for n in args.cases for t in columns for broken in (True, False)
    ]
    endings = every(judge, jobs, args.cache)
    publish(summary(endings, args.cases, columns, args.seeds), args.markdown, "repair")
    publish(by_case(endings, args.cases, columns[1:], args.seeds), args.markdown, "repair by case")
    bad = 0
    for (n, broken, tool, s), e in endings.items():
        if tool != "GradGuard repair" or not is_valid(endings, n, s):
            continue
        missed = broken and ((CASES[n].curable and not e.success) or e.right is None)
        if missed or (not broken and (e.incidents or touched(endings, n, tool, s))):
            bad += not broken
            what = f"quality {e.quality:.3g} of {CASES[n].enough:g}" if broken else "healthy twin"
            print(f"{n}, seed {s}: {what}; {'; '.join(e.incidents) or 'no incident'}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
