"""Does a guarded run last: 100,000 steps with a fault in every 200, and twenty kills?

    python benchmarks/soak.py [--steps N] [--kills N] [--folder FOLDER] [--markdown FILE]

A small network learns scikit-learn's digits under `GradGuard("protect")` three times: without faults, with a fault in
every 200 steps, and with the same faults in a process that is killed again and again (SIGKILL, also within faults and
checkpoints) and resumed from its newest checkpoint. A constant learning rate and weight decay let it learn to the end,
but little, so that a run that lost a few steps must end where the others end.

The exit code is 1 unless both runs with faults end within 1 % of the one without in validation accuracy and loss and
are called recovered, the one without is called healthy, the killed run ends with the weights of the one that was never
killed, and memory grows by less than `GROWTH`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from parallel import every
from results import publish
from rich.table import Table
from soak_run import CHECKPOINT, END, EVERY, MEMORY, strikes

from lightning_gradguard.record.incident_log import INCIDENT_LOG, read_incidents

STEPS, KILLS = 100_000, 20
#: Share of validation accuracy and loss that may differ.
MARGIN = 0.01
#: MiB by which a process may grow in 10,000 steps, after the first quarter of them.
GROWTH = 5.0
NO_FAULTS, FAULTS, KILLED = "no faults", "faults", "faults and kills"


@dataclass(frozen=True)
class Soaked:
    """What has come of a run.

    Args:
        end: As `soak_run.py` writes it.
        incidents: How many of each outcome, in the incident log.
        memory: Step, and resident memory of the process in MiB.
        sizes: MiB of what was written.
        resumptions: How often it was killed and resumed.
        seconds: From beginning to end.
    """

    end: dict[str, Any]
    incidents: dict[str, int]
    memory: list[tuple[int, float]]
    sizes: dict[str, float]
    resumptions: int
    seconds: float

    @property
    def growth(self) -> float:
        """MiB by which memory grew in 10,000 steps, after the first quarter of all."""
        (first, before), (last, after) = self.memory[len(self.memory) // 4], self.memory[-1]
        return (after - before) / max((last - first) / 1e4, 1.0)


def deaths(steps: int, kills: int) -> list[int]:
    """Steps at which the process is killed: one after the other anywhere, within a fault, at a checkpoint."""
    drawn = Random(0).sample(range(steps - CHECKPOINT), kills)
    places = [lambda at: at, lambda at: strikes(at // EVERY) + 2, lambda at: at - at % CHECKPOINT + CHECKPOINT - 1]
    return sorted(places[number % len(places)](at) for number, at in enumerate(drawn))


def soak(steps: int, faults: bool, kills: Sequence[int], folder: str) -> Soaked:
    """One run, with a process for each of its lives."""
    began, home, lives = time.perf_counter(), Path(folder), 0
    home.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("soak_run.py")
    command = [sys.executable, str(script), folder, "--steps", str(steps), *(["--faults"] if faults else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the same packages as here
    for kill_at in [*kills, -1]:
        lives += 1
        line = [*command, "--kill-at", str(kill_at)]
        life = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        if life.returncode == 0:
            break
        if life.returncode != -signal.SIGKILL:
            raise RuntimeError(f"The run ended with {life.returncode}: {life.stderr[-2000:]}")
    return gathered(home, lives - 1, time.perf_counter() - began)


def gathered(home: Path, resumptions: int, seconds: float) -> Soaked:
    """What a run has left in its folder."""
    written = {
        INCIDENT_LOG: "incidents.jsonl", "step log": "gradguard/*", "event files": "events*", "checkpoints": "*.ckpt"
    }  # fmt: skip
    return Soaked(
        end=json.loads((home / END).read_text()),
        incidents=dict(Counter(incident.outcome for incident in read_incidents(home / INCIDENT_LOG))),
        memory=[json.loads(line) for line in (home / MEMORY).read_text().splitlines()],
        sizes={name: sum(f.stat().st_size for f in home.glob(glob)) / 2**20 for name, glob in written.items()},
        resumptions=resumptions,
        seconds=seconds,
    )


def table_of(runs: dict[str, Soaked], steps: int) -> Table:
    """A row for each quantity, a column for each run."""
    clean = runs[NO_FAULTS].end
    rows: dict[str, Callable[[Soaked], str]] = {
        "validation accuracy": lambda run: f"{run.end['accuracy']:.4f}",
        "validation loss": lambda run: f"{run.end['loss']:.4f} ({run.end['loss'] / clean['loss'] - 1:+.1%})",
        "digest of the weights": lambda run: str(run.end["weights"][:8]),
        "the run is called": lambda run: str(run.end["outcome"]),
        "incidents": lambda run: ", ".join(f"{n} {outcome}" for outcome, n in run.incidents.items()) or "none",
        **{f"memory at step {at:,}": partial(memory_at, at) for at in range(0, steps, max(steps // 8, 1))},
        "growth in 10,000 steps": lambda run: f"{run.growth:+.2f} MiB",
        **{name: partial(size_of, name) for name in runs[KILLED].sizes},
        "killed and resumed": lambda run: str(run.resumptions),
        "seconds": lambda run: f"{run.seconds:.0f}",
    }
    table = Table("", *runs, title=f"{steps:,} steps, {steps // EVERY} faults, {runs[KILLED].resumptions} kills")
    for name, cell in rows.items():
        table.add_row(name, *map(cell, runs.values()))
    return table


def memory_at(step: int, run: Soaked) -> str:
    """Memory of the process that was at a step, when it was noted next."""
    return f"{next(size for at, size in run.memory if at >= step):.1f} MiB"


def size_of(name: str, run: Soaked) -> str:
    """Size of what was written under a name."""
    return f"{run.sizes[name]:.2f} MiB"


def same(runs: dict[str, Soaked]) -> bool:
    """Whether the killed run ended with the weights of the one that was never killed."""
    return bool(runs[KILLED].end["weights"] == runs[FAULTS].end["weights"])


def failures(runs: dict[str, Soaked]) -> list[str]:
    """What is not as it should be."""
    clean, found = runs[NO_FAULTS].end, []
    for name, run in runs.items():
        for what in ("accuracy", "loss"):
            if abs(run.end[what] - clean[what]) > MARGIN * clean[what]:
                found.append(f"{name}: validation {what} is {run.end[what]:.4f}, without faults {clean[what]:.4f}")
        if run.end["outcome"] != ("healthy" if name == NO_FAULTS else "recovered"):
            found.append(f"{name}: the run is called {run.end['outcome']}")
        if not run.resumptions and run.growth > GROWTH:
            found.append(f"{name}: memory grows by {run.growth:.1f} MiB in 10,000 steps (limit {GROWTH})")
    return found if same(runs) else [*found, "the killed run ended with other weights than the one never killed"]


def main() -> int:
    """One table; then what is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--folder", help="where the runs' files are kept; it must be empty")
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        home = Path(options.folder or passing)
        plans = {
            NO_FAULTS: (False, ()),
            FAULTS: (True, ()),
            KILLED: (True, tuple(deaths(options.steps, options.kills))),
        }
        jobs = {name: (options.steps, *plan, str(home / name)) for name, plan in plans.items()}
        ends = every(soak, list(jobs.values()))
    runs = {name: ends[job] for name, job in jobs.items()}
    publish(table_of(runs, options.steps), options.markdown, "soak")
    found = failures(runs)
    print(*found, sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
