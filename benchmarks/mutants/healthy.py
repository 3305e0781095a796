"""How well the healthy recipes end, and from when on a run counts as broken."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev

from mutants.mutant import Mutant, every_recipe
from mutants.runs import endings
from mutants.tools import ALONE

FILE = Path(__file__).parent / "healthy.json"
SEEDS = range(5)
#: A run is broken below the healthy mean by more than three points or four standard deviations, whichever is more.
POINTS, DEVIATIONS = 0.03, 4.0


def measure(folder: Path, processes: int | None = None) -> None:
    """Writes the quality of every recipe with every seed to `healthy.json`."""
    jobs = [(Mutant(name, seed), ALONE) for name in every_recipe() for seed in SEEDS]
    found = endings(jobs, folder, processes)
    values = {name: [round(found[Mutant(name, s), ALONE].quality, 4) for s in SEEDS] for name in every_recipe()}
    rows = ",\n".join(f'  "{name}": {json.dumps(row)}' for name, row in values.items())
    FILE.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")


def limits() -> dict[str, float]:
    """The quality of every recipe below which a run is broken."""
    values = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: limit(row) for name, row in values.items()}


def limit(row: list[float]) -> float:
    """The mean minus the margin."""
    return mean(row) - max(POINTS, DEVIATIONS * stdev(row))
