"""Every zoo case, broken and with each cure, over several seeds: the table of docs/zoo.md.

    python benchmarks/zoo.py                 # all cases, 3 seeds: minutes on 2 cores
    python benchmarks/zoo.py --write         # and write the table into docs/zoo.md
    python benchmarks/zoo.py deep_sigmoid --seeds 5

A cure counts as holding when, in every seed, the symptom is gone and the metric is better than the broken run's of the
same seed by the case's margin. Exit code 1 if a cure that the zoo claims to hold does not, or the other way round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_gradguard import zoo
from lightning_gradguard.zoo.showing import number

PAGE = Path(__file__).parent.parent / "docs" / "zoo.md"
MARK = "<!-- printed by benchmarks/zoo.py -->"


def main() -> int:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="names; all when none is given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="JSON file of finished rows, to go on where a run was stopped")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [zoo.get_case(name) for name in options.cases] or zoo.list_cases()
    done = json.loads(options.cache.read_text()) if options.cache and options.cache.exists() else {}
    lines, wrong = [], []
    for case in cases:
        if case.name not in done:
            done[case.name] = measured(case, range(options.seeds))
            if options.cache:
                options.cache.write_text(json.dumps(done))
        rows, unexpected = table(case, done[case.name])
        print("\n".join(rows), flush=True)
        lines += rows
        wrong += unexpected
    if options.write:
        PAGE.write_text(PAGE.read_text().partition(MARK)[0] + "\n".join([MARK, "", *lines]) + "\n")
    print("\n".join(["not as claimed:", *wrong]) if wrong else "every cure is as claimed")
    return 1 if wrong else 0


def measured(case: zoo.Case, seeds: Sequence[int]) -> dict[str, list[list[float]]]:
    """For each variant and seed: symptom, metric, first/last ratio, slope, seconds."""
    variants = {}
    for cure in (None, *case.cures):
        runs = [zoo.run_case(case, cure, policy="none", accelerator="cpu", seed=seed) for seed in seeds]
        variants[cure or "broken"] = [[r.symptom, r.metric, r.ratio, r.slope, r.seconds] for r in runs]
    return variants


def table(case: zoo.Case, variants: dict[str, list[list[float]]]) -> tuple[list[str], list[str]]:
    """The case's part of the page, and what is not as the case claims."""
    sign = ">" if case.symptom.above else "<"
    lines = [
        f"### {case.name}: {case.title}",
        "",
        f"Symptom: {case.symptom.what} {sign} {case.symptom.limit:g}. Shows {', '.join(case.rows)}.",
        "",
        f"| variant | rows | symptom | {case.metric} | first/last | slope | s | cures |",
        "|---|---|---|---|---|---|---|---|",
    ]
    wrong = []
    broken = variants["broken"]
    if not all(case.symptom.sick(row[0]) for row in broken):
        wrong.append(f"{case.name}: broken is not sick: {[row[0] for row in broken]}")
    for name, rows in variants.items():
        columns = [
            ", ".join(number(v) for v in sorted(column)) for column in zip(*(row[:2] for row in rows), strict=True)
        ]
        middle = [number(statistics.median(column)) for column in zip(*(row[2:] for row in rows), strict=True)]
        verdict, proves = "", ""
        if name != "broken":
            pairs = zip(broken, rows, strict=True)
            cured = all(not case.symptom.sick(b[0]) and case.gain(a[1], b[1]) >= case.margin for a, b in pairs)
            verdict, proves = "yes" if cured else "no", ", ".join(case.cures[name].rows)
            if cured != case.cures[name].holds:
                wrong.append(f"{case.name} {name}: holds={case.cures[name].holds}, measured {rows}")
        lines.append(f"| {name} | {proves} | {' | '.join([*columns, *middle])} | {verdict} |")
    return [*lines, ""], wrong


if __name__ == "__main__":
    sys.exit(main())
