"""How a small language model ends when something goes wrong: held-out bits per byte with each tool.

    python benchmarks/lm [--rows NAME ...] [--tools NAME ...] [--seeds 1] [--cache FOLDER] [--markdown FILE]

A byte-level GPT of 0.4 million parameters, 400 steps on Python's documentation by a standard recipe (AdamW 0.9/0.95,
warmup, cosine, weight decay, gradients clipped at 1). Every tool is beside the recipe's own clipping. Lower is better.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import lightning.pytorch as pl  # noqa: E402
from gpt import GPT, STEPS, loader  # noqa: E402
from parallel import every  # noqa: E402
from peers import WITH_REPAIR  # noqa: E402
from recipes.base import quiet  # noqa: E402
from results import publish  # noqa: E402
from rich.table import Table  # noqa: E402
from rows import ROWS  # noqa: E402

from lightning_gradguard import GradGuard  # noqa: E402


@dataclass(frozen=True)
class Ending:
    """How a run ended: held-out bits per byte, what the guard said, and what went wrong with the tool."""

    bits: float
    outcome: str = ""
    story: str = ""
    error: str = ""


def train(row: str, tool: str, seed: int) -> Ending:
    """One run."""
    quiet()
    pl.seed_everything(seed)
    callbacks, options = WITH_REPAIR[tool]()
    chosen = ROWS[row]
    module = GPT(chosen.recipe)
    faults = [chosen.fault] if chosen.fault is not None else []
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, max_steps=STEPS, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[*faults, *callbacks],
        **{"gradient_clip_val": 1.0, **options},
    )  # fmt: skip
    try:
        trainer.fit(module, loader(seed))
    except Exception as error:  # a tool that ends the run
        return Ending(module.bits_per_byte(), error=f"{type(error).__name__}: {error}"[:200])
    report = next((callback.report() for callback in callbacks if isinstance(callback, GradGuard)), None)
    return Ending(module.bits_per_byte(), report.outcome if report else "", str(report or ""))


def main() -> int:
    """A row for each way to go wrong, a column for each tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--tools", nargs="*", default=[tool for tool in WITH_REPAIR if tool != "clip 1.0"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cache", help="folder for finished runs, so that an interrupted benchmark continues")
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    options = parser.parse_args()
    seeds = range(options.seeds)
    jobs = [(row, tool, seed) for row in options.rows for tool in options.tools for seed in seeds]
    ended = every(train, jobs, options.cache)
    table = Table("what goes wrong", *options.tools, title=f"Held-out bits per byte, {options.seeds} seed(s)")
    for row in options.rows:
        endings = {tool: [ended[row, tool, seed] for seed in seeds] for tool in options.tools}
        table.add_row(row, *(cell(endings[tool]) for tool in options.tools))
    publish(table, options.markdown, "language model")
    for job in jobs:
        if ended[job].story and (ended[job].outcome != "healthy" or ended[job].error):
            print(f"{job[0]}, {job[1]}, seed {job[2]}: {ended[job].story} {ended[job].error}")
    return 0


def cell(endings: list[Ending]) -> str:
    """Mean bits per byte, and what the guard says."""
    words = ", ".join(dict.fromkeys(e.outcome for e in endings if e.outcome))
    return f"{fmean(e.bits for e in endings):.2f}" + (f" ({words})" if words else "")


if __name__ == "__main__":
    sys.exit(main())
