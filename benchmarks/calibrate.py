"""How close do healthy runs come to each detector's limit? Prints the numbers quoted in the detectors' docstrings.

    python benchmarks/calibrate.py [--seeds 3] [--recipes NAME ...] [--nearest 1] [--markdown FILE]

Every recipe runs under `monitor`. For each statistic the table has the largest value of all healthy runs and the limit.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from parallel import every
from recipes import RECIPES, run
from results import publish
from rich.table import Table

from lightning_gradguard import GradGuard, GradStats
from lightning_gradguard.detectors import (
    AbstractDetector,
    Exploding,
    ExplodingBuffer,
    LossIncrease,
    LossSpike,
    LRJump,
    Oscillating,
    Overshooting,
    State,
    Vanishing,
    diagnose,
)
from lightning_gradguard.detectors.base import decades_above, median

EXPLODING, SPIKE, BUFFER, LR, INCREASE = Exploding(), LossSpike(), ExplodingBuffer(), LRJump(), LossIncrease()
VANISHING, OSCILLATING, OVERSHOOTING = Vanishing(), Oscillating(), Overshooting()
WATCHED = (EXPLODING, SPIKE, BUFFER, LR, INCREASE, VANISHING, OSCILLATING)


def jump(state: State, stats: GradStats) -> float:
    """Global gradient norm over its maximum so far, or a layer's over its own where that exceeds the global maximum."""
    highest = state["record"]["highest"]
    if highest is None or len(highest) != len(stats.grad_norm) + 1 or not stats.clean or stats.global_norm == 0:
        return math.nan
    row = np.array([stats.global_norm, *stats.grad_norm])
    counted = (highest > 0) & (row > highest[0])
    counted[0] = True
    return float((row / np.maximum(highest, 1e-300))[counted].max())


def growth(state: State, stats: GradStats) -> float:
    """Global gradient norm over its moving median, at steps with a new maximum and a loss above its median."""
    highest = state["record"]["highest"]
    if highest is None or not stats.clean or stats.loss is None or stats.loss <= median(state["losses"]):
        return math.nan
    return stats.global_norm / median(state["norms"]) if stats.global_norm > highest[0] else math.nan


def loss_excess(state: State, stats: GradStats) -> float:
    """Excess of the loss over its moving median, relative to the largest healthy excess."""
    if stats.loss is None or stats.multiple_optimizers or state["seen"] < SPIKE.warmup:
        return math.nan
    usual = median(state["losses"])
    return (stats.loss - usual) / max(state["highest"] - usual, 0.1 * abs(usual), 1e-300)


def buffer(state: State, stats: GradStats) -> float:
    """Norm of a buffer over its maximum so far."""
    highest = state["highest"]
    if highest is None or not stats.buffers or len(highest) != len(stats.buffer_norm):
        return math.nan
    return float(10 ** decades_above(stats.buffer_norm, highest).max(initial=-np.inf, where=highest > 0))


def rate(state: State, stats: GradStats) -> float:
    """Learning rate over its previous maximum."""
    return stats.lr / state["highest"] if state["seen"] >= LR.warmup and state["highest"] else math.nan


def high_losses(state: State, stats: GradStats) -> float:
    """Consecutive losses above all recent ones and more than half way back to the first."""
    high, usual = state["high"], median(state["losses"])
    counts = bool(high) and median(high) > usual + INCREASE.share * (median(state["first"]) - usual) > usual
    return float(len(high)) if counts else 0.0


def update(_: State, stats: GradStats) -> float:
    """Norm of a sampled update over the norm of the weights."""
    return stats.global_update_ratio


def later_update(_: State, stats: GradStats) -> float:
    """The same, after the first steps of the run."""
    return stats.global_update_ratio if stats.step > LR.warmup else math.nan


def decades_lost(_: State, stats: GradStats) -> float:
    """Decades by which the RMS gradient decreases from the last layer to the first."""
    depth = int((stats.layers.matrix & np.isfinite(stats.log_rms)).sum())
    return stats.depth_slope * (depth - 1)


def swings(state: State, stats: GradStats) -> float:
    """Number of swings of the smoothed loss."""
    return float(state["count"])


@dataclass(frozen=True)
class Gauge:
    """A detector's statistic: its limit, for how many steps it must last, and how it is computed from the state."""

    title: str
    detector: str
    limit: float
    measure: Callable[[State, GradStats], float]
    lasting: int = 1


GAUGES = (
    Gauge("gradient norm over its maximum so far", EXPLODING.name, EXPLODING.factor, jump),
    Gauge("growing norm over its median, 5 steps in a row", EXPLODING.name, EXPLODING.factor, growth, 5),
    Gauge("excess of the loss over the largest so far", SPIKE.name, SPIKE.factor, loss_excess),
    Gauge("consecutive high losses", INCREASE.name, INCREASE.sustained, high_losses),
    Gauge("buffer norm over its maximum so far", BUFFER.name, BUFFER.factor, buffer),
    Gauge("learning rate over its previous maximum", LR.name, LR.factor, rate),
    Gauge("update-to-weight ratio", "", OVERSHOOTING.limit, update),
    Gauge("the same, after 20 steps", "", LR.update_ratio, later_update),
    Gauge("decades of gradient lost over depth, 50 steps in a row", "", VANISHING.decades, decades_lost, 50),
    Gauge("swings of the loss", OSCILLATING.name, OSCILLATING.swings, swings),
)


@dataclass(frozen=True)
class Meter(AbstractDetector):
    """Reports nothing and stores the largest value of every gauge in `peaks`: title -> (value, step)."""

    kind: ClassVar[str] = "meter"
    name: str = "meter"
    peaks: dict[str, tuple[float, int]] = field(default_factory=dict)

    def init(self) -> State:
        return {"states": {d.name: d.init() for d in WATCHED}, "recent": defaultdict(list)}

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple]:
        for gauge in GAUGES:
            value = gauge.measure(state["states"].get(gauge.detector, {}), stats)
            recent = state["recent"][gauge.title] = [*state["recent"][gauge.title], value][-gauge.lasting :]
            lasted = min(recent) if len(recent) == gauge.lasting and not any(map(math.isnan, recent)) else -math.inf
            self.peaks[gauge.title] = max(self.peaks.get(gauge.title, (-math.inf, 0)), (lasted, stats.step))
        return {**state, "states": diagnose(WATCHED, state["states"], stats)[0]}, ()


def measure(name: str, seed: int) -> dict[str, tuple[float, int]]:
    """The largest value of every gauge in one run."""
    meter = Meter()
    outcome = run(RECIPES[name], seed, callbacks=[GradGuard("monitor", detectors=[meter])])
    if outcome.error or not outcome.finite:
        raise RuntimeError(f"{name} with seed {seed} is not a healthy run: {outcome.error or 'non-finite weights'}.")
    return meter.peaks


def main() -> None:
    """Prints the runs that come closest to each limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--nearest", type=int, default=1, help="runs shown for each statistic")
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    options = parser.parse_args()
    jobs = [(name, seed) for name in options.recipes for seed in range(options.seeds)]
    peaks = every(measure, jobs)
    title = f"Largest value of each statistic in {len(jobs)} healthy runs: {len(options.recipes)} recipes"
    table = Table("statistic", "largest", "limit", "where", title=title)
    for gauge in GAUGES:
        ranked = sorted(((*peaks[job][gauge.title], *job) for job in jobs), reverse=True)
        for value, step, name, seed in ranked[: options.nearest]:
            table.add_row(gauge.title, f"{value:.3g}", f"{gauge.limit:g}", f"{name}, seed {seed}, step {step}")
    publish(table, options.markdown, "calibration")


if __name__ == "__main__":
    main()
