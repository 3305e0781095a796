"""How near do healthy runs come to each detector's limit? The numbers in the detectors' docstrings are printed here.

    python benchmarks/calibrate.py [--seeds 3] [--recipes NAME ...] [--nearest 1] [--markdown FILE]

Every recipe runs unguarded; beside each detector stands the largest value that its statistic took in any healthy run.
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
from lightning_gradguard.detectors.base import excess, median

EXPLODING, SPIKE, BUFFER, LR, RELAPSE = Exploding(), LossSpike(), ExplodingBuffer(), LRJump(), LossIncrease()
VANISHING, OSCILLATING, OVERSHOOTING = Vanishing(), Oscillating(), Overshooting()
WATCHED = (EXPLODING, SPIKE, BUFFER, LR, RELAPSE, VANISHING, OSCILLATING)


def jump(state: State, stats: GradStats) -> float:
    """Global gradient norm over its record, or a layer's over its own where that is above the global one."""
    highest = state["record"]["highest"]
    if highest is None or len(highest) != len(stats.grad_norm) + 1 or not stats.clean or stats.global_norm == 0:
        return math.nan
    row = np.array([stats.global_norm, *stats.grad_norm])
    counted = (highest > 0) & (row > highest[0])
    counted[0] = True
    return float((row / np.maximum(highest, 1e-300))[counted].max())


def growth(state: State, stats: GradStats) -> float:
    """Global gradient norm over its moving median, at steps with a record norm and more than the usual loss."""
    highest = state["record"]["highest"]
    if highest is None or not stats.clean or stats.loss is None or stats.loss <= median(state["losses"]):
        return math.nan
    return stats.global_norm / median(state["norms"]) if stats.global_norm > highest[0] else math.nan


def height(state: State, stats: GradStats) -> float:
    """Height of the loss over its moving median, over the largest healthy one."""
    if stats.loss is None or stats.multiple_optimizers or state["seen"] < SPIKE.warmup:
        return math.nan
    usual = median(state["losses"])
    return (stats.loss - usual) / max(state["highest"] - usual, 0.1 * abs(usual), 1e-300)


def buffer(state: State, stats: GradStats) -> float:
    """Norm of a buffer over its record."""
    highest = state["highest"]
    if highest is None or not stats.buffers or len(highest) != len(stats.buffer_norm):
        return math.nan
    return float(10 ** excess(stats.buffer_norm, highest).max(initial=-np.inf, where=highest > 0))


def rate(state: State, stats: GradStats) -> float:
    """Learning rate over the highest before it."""
    return stats.lr / state["highest"] if state["seen"] >= LR.warmup and state["highest"] else math.nan


def high_losses(state: State, stats: GradStats) -> float:
    """Losses in a row above all recent ones and more than half way back to the first."""
    high, usual = state["high"], median(state["losses"])
    worth = bool(high) and median(high) > usual + RELAPSE.share * (median(state["first"]) - usual) > usual
    return float(len(high)) if worth else 0.0


def update(_: State, stats: GradStats) -> float:
    """Norm of a sampled update over the weights'."""
    return stats.global_update_ratio


def later_update(_: State, stats: GradStats) -> float:
    """The same once the run has begun."""
    return stats.global_update_ratio if stats.step > LR.warmup else math.nan


def fall(_: State, stats: GradStats) -> float:
    """Decades of RMS gradient lost from the last layer to the first."""
    depth = int((stats.layers.matrix & np.isfinite(stats.log_rms)).sum())
    return stats.depth_slope * (depth - 1)


def swings(state: State, stats: GradStats) -> float:
    """Swings of the smoothed loss."""
    return float(state["count"])


@dataclass(frozen=True)
class Gauge:
    """A detector's statistic: its limit, how long it must last, and how it is measured from the detector's state."""

    title: str
    detector: str
    limit: float
    measure: Callable[[State, GradStats], float]
    lasting: int = 1


GAUGES = (
    Gauge("gradient norm over its record", EXPLODING.name, EXPLODING.factor, jump),
    Gauge("growing norm over its median, 5 steps in a row", EXPLODING.name, EXPLODING.factor, growth, 5),
    Gauge("excess of the loss over the largest before", SPIKE.name, SPIKE.factor, height),
    Gauge("high losses in a row", RELAPSE.name, RELAPSE.sustained, high_losses),
    Gauge("buffer norm over its record", BUFFER.name, BUFFER.factor, buffer),
    Gauge("learning rate over the highest before", LR.name, LR.factor, rate),
    Gauge("update-to-weight ratio", "", OVERSHOOTING.limit, update),
    Gauge("the same, after 20 steps", "", LR.reach, later_update),
    Gauge("decades lost over depth, 50 steps in a row", "", VANISHING.decades, fall, 50),
    Gauge("swings of the loss", OSCILLATING.name, OSCILLATING.swings, swings),
)


@dataclass(frozen=True)
class Meter(AbstractDetector):
    """Reports nothing, and keeps the largest value of every gauge in `peaks`: title -> (value, step)."""

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
        raise RuntimeError(f"{name} with seed {seed} is no healthy run: {outcome.error or 'non-finite weights'}.")
    return meter.peaks


def main() -> None:
    """Measures, then prints the runs that come nearest to each limit."""
    parser = argparse.ArgumentParser(description=__doc__)
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
