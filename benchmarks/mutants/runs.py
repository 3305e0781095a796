"""Runs mutants, and keeps what came of each as a line of a file, so that an interrupted benchmark continues."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from parallel import every
from recipes.base import Program, digest, run

from lightning_gradguard import GradGuard
from lightning_gradguard.findings import HEALTHY
from mutants.mutant import Mutant
from mutants.setups import Setup, quality
from mutants.tools import ALONE, TOOLS

LINES = "runs.jsonl"
Job = tuple[Mutant, str]


@dataclass(frozen=True)
class Ending:
    """What came of one run.

    Args:
        quality: On held-out data, 0 to 1.
        weights: A digest of the final weights and buffers.
        seconds: Processor time.
        error: Name of an exception that left the Trainer.
        outcome: Of the guard's report; empty without a guard.
        kinds: Of the incidents that lasted until the fault began, or were later.
        incidents: The same as text.
    """

    quality: float
    weights: str
    seconds: float
    error: str = ""
    outcome: str = ""
    kinds: tuple[str, ...] = ()
    incidents: tuple[str, ...] = ()

    @property
    def reported(self) -> bool:
        """Whether the guard called the run anything but healthy."""
        return bool(self.kinds) or self.outcome not in ("", HEALTHY)


def judge(mutant: Mutant, tool: str = ALONE) -> Ending:
    """Runs one mutant under one tool."""
    setups: list[Setup] = []

    def program() -> Program:  # built after the run's seed is set
        setups.append(mutant.setup())
        return setups[0].program()

    callbacks, options = TOOLS[tool]()
    outcome = run(program, mutant.seed, callbacks=callbacks, **options)
    guards = [callback for callback in callbacks if isinstance(callback, GradGuard)]
    incidents = [i for guard in guards for i in guard.incidents if i.last_step >= setups[0].onset]
    return Ending(
        quality(outcome.module.net, setups[0].data),  # type: ignore[arg-type]
        digest(outcome.state), round(outcome.seconds, 3), outcome.error,
        guards[0].report().outcome if guards else "",
        tuple(dict.fromkeys(i.kind for i in incidents)), tuple(str(i)[:300] for i in incidents[:20]),
    )  # fmt: skip


def endings(jobs: Iterable[Job], folder: Path, processes: int | None = None) -> dict[Job, Ending]:
    """Of every job: those that the folder has, and the others after running them."""
    jobs, folder = list(dict.fromkeys(jobs)), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    left = [job for job in jobs if job not in read(folder)]
    every(judge_and_keep, [(*job, str(folder)) for job in left], processes=processes) if left else None
    kept = read(folder)
    return {job: kept[job] for job in jobs}


def judge_and_keep(mutant: Mutant, tool: str, folder: str) -> None:
    """Runs one mutant under one tool and keeps what came of it."""
    keep(Path(folder), (mutant, tool), judge(mutant, tool))


def keep(folder: Path, job: Job, ending: Ending) -> None:
    """Appends a line; it begins with a line break, in case the one before was cut off."""
    line = json.dumps({"mutant": asdict(job[0]), "tool": job[1], "ending": asdict(ending)})
    with (folder / LINES).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")


def read(folder: Path) -> dict[Job, Ending]:
    """What the folder has; a line that was cut off does not count."""
    path = folder / LINES
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = [json.loads(line) for line in text.splitlines() if line.endswith("}}")]
    return {(Mutant(**line["mutant"]), line["tool"]): ending(line["ending"]) for line in whole}


def ending(plain: dict[str, object]) -> Ending:
    """The reverse of `asdict`."""
    lists = {key: tuple(value) for key, value in plain.items() if isinstance(value, list)}
    return Ending(**{**plain, **lists})  # type: ignore[arg-type]
