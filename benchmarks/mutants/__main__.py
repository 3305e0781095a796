"""Random mutants of healthy programs: how many that ruin a run are repaired, and is any that does not harmed?

    python benchmarks/mutants [--count 500] [--only NUMBER ...] [--half odd|even] [--tools NAME ...] [--markdown FILE]

Mutant number n is a recipe, an operator, a severity and a seed, all drawn by n: nobody selected it. It is killed when
its quality on held-out data is worse than that of the healthy recipe by more than the recipe's margin (three points, or
four standard deviations of five healthy runs, whichever is more; `healthy.json`, printed by `--margins`). A killed
mutant is repaired by a tool under which it ends within the margin; one that is not killed is harmed by a tool under
which it does not. Thresholds may be tuned on odd numbers and are reported on even ones.

After DeepCrime: Humbatova, Jahangirova and Tonella 2021 (ISSTA).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from mutant import OPERATORS, RECIPES, Mutant, Program, load, train, weights  # noqa: E402
from parallel import every  # noqa: E402
from peers import TOOLS as PEERS  # noqa: E402
from results import publish, rate  # noqa: E402
from rich.table import Table  # noqa: E402

from lightning_gradguard import GradGuard  # noqa: E402

NONE, PROTECT, REPAIR = "no guard", "GradGuard", "GradGuard repair"
TOOLS = {**PEERS, REPAIR: lambda: ([GradGuard("repair", record=False)], {})}
#: Quality and margin of each recipe.
MARGINS = HERE / "healthy.json"
#: Smallest margin, and standard deviations of healthy runs.
LEAST, DEVIATIONS = 0.03, 4.0
SEEDS = range(5)


@dataclass(frozen=True)
class Ending:
    """How a mutant ended with a tool.

    Args:
        quality: On held-out data.
        done: What the operator did.
        learned: A hash of all that was learned.
        seconds: Processor time.
        kinds: Of the incidents.
        story: What the guard said.
        error: Why it ended early.
    """

    quality: float
    done: str
    learned: str
    seconds: float
    kinds: tuple[str, ...] = ()
    story: str = ""
    error: str = ""


def quiet() -> None:
    """Silences Lightning and the guard."""
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning_gradguard"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")


def judge(number: int, tool: str) -> Ending:
    """Trains a mutant with a tool."""
    quiet()
    load()
    mutant = Mutant.of(number)
    program, done = mutant.program()
    callbacks, options = TOOLS[tool]()
    begun, error = time.process_time(), ""
    try:
        quality = train(program, mutant.seed, callbacks, options)
    except Exception as raised:  # a mutant, or a tool, that ends the run
        quality, error = 0.0, f"{type(raised).__name__}: {raised}"[:200]
    report = next((c.report() for c in callbacks if isinstance(c, GradGuard)), None)
    kinds = tuple(sorted({i.kind for i in report.incidents})) if report else ()
    learned = sha256(b"".join(t.float().numpy().tobytes() for t in weights(program))).hexdigest()
    return Ending(quality, done, learned, time.process_time() - begun, kinds, str(report or ""), error)


def train_healthy(recipe: str, seed: int) -> float:
    """Quality of a healthy run."""
    quiet()
    load()
    return train(Program.of(RECIPES[recipe], seed), seed, [], {})


def measure_margins(cache: str | None) -> int:
    """Writes quality and margin of every recipe."""
    found = every(train_healthy, [(recipe, seed) for recipe in RECIPES for seed in SEEDS], cache)
    table: dict[str, dict[str, float]] = {}
    for recipe in RECIPES:
        runs = [found[recipe, seed] for seed in SEEDS]
        table[recipe] = {"quality": fmean(runs), "margin": max(LEAST, DEVIATIONS * stdev(runs)), "worst": min(runs)}
        print(recipe, {key: round(value, 3) for key, value in table[recipe].items()})
    MARGINS.write_text(
        json.dumps({r: {k: round(v, 4) for k, v in t.items()} for r, t in table.items()}, indent=1) + "\n"
    )
    return 0


@dataclass(frozen=True)
class Judged:
    """A mutant alone and with a tool.

    Args:
        mutant: Which one.
        alone: Without a tool.
        ending: With it.
        limit: Quality from which on it is healthy.
    """

    mutant: Mutant
    alone: Ending
    ending: Ending
    limit: float

    @property
    def killed(self) -> bool:
        """Whether the mutation alone ruins the run."""
        return self.alone.quality < self.limit

    @property
    def fine(self) -> bool:
        """Whether the run ends well with the tool."""
        return self.ending.quality >= self.limit

    @property
    def named(self) -> bool:
        """Whether an incident names the cause."""
        return bool(set(self.ending.kinds) & set(OPERATORS[self.mutant.operator].kinds))

    @property
    def changed(self) -> bool:
        """Whether something else was learned than without the tool."""
        return self.ending.learned != self.alone.learned

    def __str__(self) -> str:
        return (
            f"{self.mutant.number}: {self.mutant.recipe}, {self.ending.done}: {self.alone.quality:.3f} alone, "
            f"{self.ending.quality:.3f} with it (limit {self.limit:.3f}). {self.ending.error} {self.ending.story}"
        )


def column(all_of: Sequence[Judged]) -> list[str]:
    """The rates of one tool."""
    killed, alive = [j for j in all_of if j.killed], [j for j in all_of if not j.killed]
    static = [j for j in killed if not OPERATORS[j.mutant.operator].sudden]
    sudden = [j for j in killed if OPERATORS[j.mutant.operator].sudden]
    ruined = [j for j in killed if j.alone.quality < j.limit / 2]
    ours = any(j.ending.story for j in all_of)
    spoken = [bool(j.ending.kinds) for j in killed]
    ratio = median([j.ending.seconds / max(j.alone.seconds, 1e-3) for j in all_of]) if all_of else 0.0
    return [
        rate(sum(j.fine for j in killed), len(killed)),
        rate(sum(j.fine for j in static), len(static)),
        rate(sum(j.fine for j in sudden), len(sudden)),
        rate(sum(j.fine for j in ruined), len(ruined)),
        rate(sum(spoken), len(spoken)) if ours else "-",
        rate(sum(j.named for j in killed), len(killed)) if ours else "-",
        rate(sum(not j.fine for j in alive), len(alive)),
        rate(sum(j.changed for j in alive), len(alive)),
        rate(sum(bool(j.ending.kinds) for j in alive), len(alive)) if ours else "-",
        f"{ratio:.2f}",
    ]


ROWS = (
    "killed mutants repaired", "- wrong from the start", "- spoiled within the run", "- ruined: half of the limit",
    "- spoken of",
    "- right cause among the incidents", "others harmed", "- weights not the same", "- spoken of", "time (median)",
)  # fmt: skip


def table_of(judged: dict[str, list[Judged]], count: int) -> Table:
    """A column for each tool."""
    first = next(iter(judged.values()))
    killed = sum(j.killed for j in first)
    table = Table("", *judged, title=f"{count} mutants, {killed} killed by the mutation alone")
    for cells in zip(ROWS, *(column(all_of) for all_of in judged.values()), strict=True):
        table.add_row(*cells)
    return table


def numbers(options: Any) -> list[int]:
    """Of the mutants that are asked for."""
    chosen = options.only or range(options.count)
    return [n for n in chosen if options.half is None or n % 2 == ("even", "odd").index(options.half)]


def main() -> int:
    """A table, and a line for every miss and every harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutants")
    parser.add_argument("--half", choices=("odd", "even"))
    parser.add_argument("--tools", nargs="*", default=[PROTECT, REPAIR])
    parser.add_argument("--margins", action="store_true", help="measure the healthy recipes instead")
    parser.add_argument("--cache", help="folder for finished runs, so that an interrupted benchmark continues")
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    options = parser.parse_args()
    load()
    if options.margins:
        return measure_margins(options.cache)
    margins = json.loads(MARGINS.read_text())
    tools = [tool for tool in options.tools if tool != NONE]
    ended = every(judge, [(n, tool) for n in numbers(options) for tool in (NONE, *tools)], options.cache)
    judged: dict[str, list[Judged]] = {tool: [] for tool in tools}
    for number in numbers(options):
        mutant = Mutant.of(number)
        limit = margins[mutant.recipe]["quality"] - margins[mutant.recipe]["margin"]
        for tool in tools:
            judged[tool].append(Judged(mutant, ended[number, NONE], ended[number, tool], limit))
    publish(table_of(judged, len(numbers(options))), options.markdown, f"mutants{options.half or ''}")
    for tool, all_of in judged.items():
        for j in all_of:
            if not j.fine:
                print(f"{tool}: {'missed' if j.killed else 'harmed'} {j}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
