"""Does a guard change healthy runs? Compares the final weights with and without it, bit for bit, on fault-free recipes.

    python benchmarks/harmless.py [--seeds 3] [--recipes NAME ...] [--tools NAME ...] [--markdown FILE]

The exit code is 1 if GradGuard changed a run, acted, or reported a finding.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from parallel import every
from peers import TOOLS as PEERS
from recipes import RECIPES, STEPS, run, same
from results import publish
from rich.table import Table

from lightning_gradguard import GradGuard
from lightning_gradguard.findings import HEALTHY

GUARD, REPAIR = "GradGuard", "GradGuard repair"
OURS = {GUARD, REPAIR}
#: The run is the same and has no incident, but its loss ends above its best: a moving target, as in Q-learning.
DOUBTED = "same, called degraded"
TOOLS = {**PEERS, REPAIR: lambda: ([GradGuard("repair", record=False)], {})}


@dataclass(frozen=True)
class Verdict:
    """Effect of a tool on one healthy run: `word` is shown in the table, `details` are reports of something else."""

    word: str
    details: tuple[str, ...] = ()

    @property
    def harmless(self) -> bool:
        """Whether the weights are the same and nothing was found."""
        return self.word in ("same", DOUBTED)


def judge(name: str, seed: int, steps: int = STEPS, tools: Sequence[str] = (GUARD,)) -> dict[str, Verdict]:
    """Runs a recipe without any tool and once with each."""
    alone = run(RECIPES[name], seed, steps)
    if alone.error or not alone.finite:
        raise RuntimeError(f"{name} with seed {seed} is not a healthy run: {alone.error or 'non-finite weights'}.")
    verdicts = {}
    for tool in tools:
        callbacks, options = TOOLS[tool]()
        guarded = run(RECIPES[name], seed, steps, callbacks, **options)
        reports = [guard.report() for guard in callbacks if isinstance(guard, GradGuard)]
        stories = tuple(str(report) for report in reports if report.outcome != HEALTHY)
        word = "stopped" if guarded.steps < steps else "same" if same(alone, guarded) else "changed"
        if word == "same" and stories:
            word = "reported" if any(report.incidents for report in reports) else DOUBTED
        verdicts[tool] = Verdict(guarded.error or word, stories)
    return verdicts


def main() -> int:
    """One row per recipe, one column per tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--tools", nargs="*", default=[t for t in TOOLS if t not in ("no guard", "clip 1.0")])
    parser.add_argument("--cache", help="folder for finished runs, so that an interrupted benchmark continues")
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    options = parser.parse_args()
    jobs = [(name, seed, STEPS, tuple(options.tools)) for name in options.recipes for seed in range(options.seeds)]
    verdicts = every(judge, jobs, options.cache)
    touched = {tool: [j for j in jobs if not verdicts[j][tool].harmless] for tool in options.tools}
    title = f"{len(jobs)} healthy runs of {STEPS} steps: {len(options.recipes)} recipes, {options.seeds} seeds each"
    table = Table("recipe", *options.tools, title=title)
    for name in options.recipes:
        rows = [verdicts[job] for job in jobs if job[0] == name]
        table.add_row(name, *(summary([row[tool].word for row in rows]) for tool in options.tools))
    table.add_section()
    table.add_row("runs affected", *(f"{len(touched[tool])} of {len(jobs)}" for tool in options.tools))
    publish(table, options.markdown, "harmless")
    for job in jobs:
        for tool in OURS & verdicts[job].keys():
            for story in verdicts[job][tool].details:
                print(f"{job[0]}, seed {job[1]}, {tool}: {story}")
    return int(any(touched.get(tool) for tool in OURS))


def summary(words: list[str]) -> str:
    """Result over the seeds: `same`, or every other word with its count."""
    others = {word: words.count(word) for word in dict.fromkeys(words) if word != "same"}
    return ", ".join(f"{word} {count}/{len(words)}" for word, count in others.items()) or "same"


if __name__ == "__main__":
    sys.exit(main())
