"""Trains every zoo case, broken and with each cure, over several seeds; prints the tables of docs/zoo.md.

    python benchmarks/zoo.py                 # all cases, 3 seeds: some minutes on 2 cores
    python benchmarks/zoo.py --write         # also write the tables into docs/zoo.md
    python benchmarks/zoo.py deep_sigmoid --seeds 5

A cure works if, for every seed, the symptom is gone and the metric is better than that of the broken run with the same
seed by the case's margin. The exit code is 1 if the result of a cure differs from its `holds`.
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
from lightning_gradguard.zoo.tables import format_number

PAGE = Path(__file__).parent.parent / "docs" / "zoo.md"
MARK = "<!-- printed by benchmarks/zoo.py -->"


def main() -> int:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="names of cases; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="JSON file of finished cases, to continue an interrupted run")
    parser.add_argument("--write", action="store_true", help=f"also write the tables into {PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [zoo.get_case(name) for name in options.cases] or zoo.list_cases()
    done = json.loads(options.cache.read_text()) if options.cache and options.cache.exists() else {}
    lines, differences = [], []
    for case in cases:
        if case.name not in done:
            done[case.name] = measured(case, range(options.seeds))
            if options.cache:
                options.cache.write_text(json.dumps(done))
        rows, unexpected = table(case, done[case.name])
        print("\n".join(rows), flush=True)
        lines += rows
        differences += unexpected
    if options.write:
        PAGE.write_text(PAGE.read_text().partition(MARK)[0] + "\n".join([MARK, "", *lines]) + "\n")
    print("\n".join(["different from the case:", *differences]) if differences else "every cure is as its case says")
    return 1 if differences else 0


def measured(case: zoo.Case, seeds: Sequence[int]) -> dict[str, list[list[float]]]:
    """For each variant and seed: symptom value, metric, first/last ratio, slope, seconds."""
    variants = {}
    for cure in (None, *case.cures):
        runs = [zoo.run_case(case, cure, policy="none", accelerator="cpu", seed=seed) for seed in seeds]
        variants[cure or "broken"] = [[r.symptom, r.metric, r.ratio, r.slope, r.seconds] for r in runs]
    return variants


def table(case: zoo.Case, variants: dict[str, list[list[float]]]) -> tuple[list[str], list[str]]:
    """The case's table, and what differs from the case."""
    sign = ">" if case.symptom.above else "<"
    lines = [
        f"### {case.name}: {case.title}",
        "",
        f"Symptom: {case.symptom.description} {sign} {case.symptom.limit:g}. "
        f"Demonstrates {', '.join(case.statements)}.",
        "",
        f"| variant | advice | symptom | {case.metric} | first/last | slope | s | works |",
        "|---|---|---|---|---|---|---|---|",
    ]
    differences = []
    broken = variants["broken"]
    if not all(case.symptom.is_present(row[0]) for row in broken):
        differences.append(f"{case.name}: the broken run has no symptom: {[row[0] for row in broken]}")
    for name, rows in variants.items():
        columns = [
            ", ".join(format_number(v) for v in sorted(column))
            for column in zip(*(row[:2] for row in rows), strict=True)
        ]
        middle = [format_number(statistics.median(column)) for column in zip(*(row[2:] for row in rows), strict=True)]
        works, advice = "", ""
        if name != "broken":
            pairs = zip(broken, rows, strict=True)
            cured = all(not case.symptom.is_present(b[0]) and case.gain(a[1], b[1]) >= case.margin for a, b in pairs)
            works, advice = "yes" if cured else "no", ", ".join(case.cures[name].advice)
            if cured != case.cures[name].holds:
                differences.append(f"{case.name} {name}: holds={case.cures[name].holds}, measured {rows}")
        lines.append(f"| {name} | {advice} | {' | '.join([*columns, *middle])} | {works} |")
    return [*lines, ""], differences


if __name__ == "__main__":
    sys.exit(main())
