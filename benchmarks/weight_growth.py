"""How fast do weights grow in healthy runs? The criteria of `WeightGrowth` in the zoo's case and in healthy runs.

    python benchmarks/weight_growth.py [--seeds 2] [--rows 12] [--markdown FILE]

Each run is evaluated after 80 % of its steps and at its end. The table has the evaluation that is closer to the
detector's limits. `margin` is the smallest ratio of a criterion to its limit; the detector reports runs above 1.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from parallel import every
from recipes import RECIPES, run
from results import publish
from rich.table import Table

from lightning_gradguard import GradGuard, zoo
from lightning_gradguard.detectors import WeightGrowth
from lightning_gradguard.detectors.weight_growth import measure_growth
from lightning_gradguard.zoo import running

LIMITS = WeightGrowth()


def margin(growth: float, pace: float, grad: float, loss: float) -> float:
    """Smallest ratio of a criterion to its limit; 0 if one cannot be measured or the loss has not decreased."""
    ratios = [growth / LIMITS.growth, pace / LIMITS.pace, grad / LIMITS.grad_growth, loss / (1 - LIMITS.loss_drop)]
    return min(ratios) if loss < 1 and all(map(math.isfinite, ratios)) else 0.0


def nearest(guard: GradGuard) -> tuple[float, ...] | None:
    """Largest margin of a run's optimizers, with its criteria; None if there were too few samples."""
    found = []
    for watch in guard._engines.values():
        rows = watch.states[LIMITS.name]["rows"]
        for part in (0.8, 1.0):
            seen = rows[rows[:, 0] <= part * rows[-1, 0]] if len(rows) else rows
            if len(seen) >= 8:
                found.append(measure_growth(seen))
    return max(((margin(*sign), *sign) for sign in found), default=None)


def judge(source: str, name: str, cure: str, seed: int) -> tuple[float, ...] | None:
    """One run under a guard that only measures weight growth."""
    guard = GradGuard("monitor", [WeightGrowth()])
    if source == "recipe":
        run(RECIPES[name], seed, callbacks=[guard])
    else:
        running.GradGuard = lambda **_: guard  # type: ignore[assignment, misc]
        zoo.run_case(name, cure or None, accelerator="cpu", seed=seed)
    return nearest(guard)


def main() -> None:
    """The failing runs, then the healthy runs with the largest margin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    options = parser.parse_args()
    failing = [("zoo", "weight_growth", "", seed) for seed in range(options.seeds)]
    cures = [(case.name, name) for case in zoo.list_cases() for name, cure in case.cures.items() if cure.holds]
    healthy = [("zoo", *cure, seed) for cure in cures for seed in range(options.seeds)]
    healthy += [("recipe", name, "", seed) for name in RECIPES for seed in range(options.seeds)]
    results = every(judge, [*failing, *healthy])
    table = Table("run", "seed", "growth", "pace", "gradient", "loss", "margin", title=f"{len(healthy)} healthy runs")
    limits = f"at least {1 - LIMITS.loss_drop:g}, below 1"
    table.add_row("limit", "", f"{LIMITS.growth:g}", f"{LIMITS.pace:g}", f"{LIMITS.grad_growth:g}", limits, "1")
    table.add_section()
    by_margin = sorted((job for job in healthy if results[job]), key=lambda job: -results[job][0])  # type: ignore[index]
    for job in [*failing, *by_margin[: options.rows]]:
        near, *seen = results[job] or (math.nan,) * 5
        label = f"{job[1]}, {job[2]}" if job[2] else job[1]
        table.add_row(label, str(job[3]), *(f"{x:.2f}" for x in seen), f"{near:.2f}")
        if job == failing[-1]:
            table.add_section()
    growths = [results[job][1] for job in healthy if results[job] and np.isfinite(results[job][1])]  # type: ignore[index]
    publish(table, options.markdown, "weight growth")
    print(
        f"{sum(g >= LIMITS.growth for g in growths)} of {len(growths)} healthy runs grow by {LIMITS.growth:g} or more."
    )


if __name__ == "__main__":
    main()
