"""Does a guard change healthy runs? Compares the final weights with and without it, bit for bit, on fault-free recipes.

    python benchmarks/harmless.py [--seeds 3] [--recipes NAME ...] [--tools NAME ...] [--markdown FILE]
    python benchmarks/harmless.py --force-experiments 5 [--seeds 1]

With `--force-experiments N` a guard under `repair` makes N experiments at random steps of every run, with all arms and
whatever there is reason for, and keeps none.

The exit code is 1 if GradGuard changed a run, acted, or reported a finding.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parallel import every
from peers import REPAIR, WITH_REPAIR
from recipes import RECIPES, STEPS, run, same
from results import publish
from rich.table import Table

from lightning_gradguard import GradGuard
from lightning_gradguard.findings import HEALTHY, Finding
from lightning_gradguard.step.checkup import FEWEST, Question

GUARD = "GradGuard"
OURS = {GUARD, REPAIR}
#: The run is the same and has no incident, but its loss ends above its best: a moving target, as in Q-learning.
DOUBTED = "same, called degraded"


class Experimenting(GradGuard):  # type: ignore[misc]
    """Makes experiments over the first 24 steps at random moments and keeps none.

    Args:
        count: How many.
        seed: Of the steps.
        steps: Of the run.
    """

    def __init__(self, count: int, seed: int, steps: int) -> None:
        super().__init__("repair", record=False)
        self.moments = sorted(random.Random(seed).sample(range(2 * FEWEST, steps), count))
        self.experiments = self.arms = 0

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        for engine in self._engines.values():
            checkup = engine.actor.checkup
            if checkup is None or self._losses:
                continue
            checkup.last_step = math.inf
            if self.moments and engine.steps >= self.moments[0]:
                self.moments.pop(0)
                checkup.kept = checkup.kept[:FEWEST]  # for speed
                question = Question(Finding("forced", engine.steps), self.policy.trials)
                event = checkup.examine(question, keep=False)
                self.experiments += 1
                self.arms += len(event.trials) if event is not None else 0


def force(name: str, seed: int, count: int, steps: int = STEPS) -> tuple[bool, int, int]:
    """Whether a run with forced experiments is the same as without; how many were made, of how many arms."""
    guard = Experimenting(count, seed, steps)
    return (
        same(run(RECIPES[name], seed, steps), run(RECIPES[name], seed, steps, [guard])),
        guard.experiments,
        guard.arms,
    )


def force_all(options: argparse.Namespace) -> int:
    """Forced experiments in every recipe."""
    jobs = [(name, seed, options.force_experiments) for name in options.recipes for seed in range(options.seeds)]
    results = every(force, jobs, options.cache)
    made, arms = sum(result[1] for result in results.values()), sum(result[2] for result in results.values())
    changed = [f"{name}, seed {seed}" for (name, seed, _), result in results.items() if not result[0]]
    none = sorted({name for (name, _, _), result in results.items() if not result[1]})
    table = Table("runs", "experiments", "arms", "runs changed", title="Forced experiments in healthy runs")
    table.add_row(str(len(jobs)), str(made), str(arms), str(len(changed)))
    publish(table, options.markdown, "forced experiments")
    print(f"changed: {'; '.join(changed) or 'none'}")
    print(f"recipes without experiments (several optimizers, or manual optimization): {', '.join(none) or 'none'}")
    return int(bool(changed))


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
        callbacks, options = WITH_REPAIR[tool]()
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
    parser.add_argument("--tools", nargs="*", default=[t for t in WITH_REPAIR if t not in ("no guard", "clip 1.0")])
    parser.add_argument("--cache", help="folder for finished runs, so that an interrupted benchmark continues")
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    parser.add_argument("--force-experiments", type=int, default=0, help="experiments to make in every run")
    options = parser.parse_args()
    if options.force_experiments:
        return force_all(options)
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
