"""DIAGNOSE: the samples that spoiled a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding, shortlist


@dataclass(frozen=True)
class BadBatch(AbstractDetector):
    """Names the samples of a batch that hold NaN or Inf, or are far larger than the others, when a step went wrong.

    A step is suspicious when its loss or a gradient is not finite, or far above everything before. Only then is the
    batch looked at, so that a healthy step costs nothing. Samples are named by their place in the batch, and in the
    dataset where the loader shows it (not shuffled). Under gradient accumulation the losses tell which micro-batch it
    was; only the last one is still there to be looked at. Of several processes the one with the worst sample is named.
    A replay says nothing: batches are not recorded.

    Args:
        limit: Largest absolute value of a sample over that of the median sample. Chosen: standardised features of the
            heaviest tails in use stay far below, a forgotten unit (1,000 mm for 1 m) just reaches it.
        far: Ratio of loss or gradient norm to the highest before that makes a step suspicious. Chosen: a look is cheap.
        warmup: Steps in which only what is not finite is suspicious. Chosen.
        patience: Suspicious steps in a row with sound batches after which their level counts as ordinary. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If `limit` or `far` is not above 1, or a count is not positive.

    Example:
        >>> detector, nan = BadBatch(), float("nan")
        >>> look = BatchStats(np.array([1.0, nan, 1.2, nan]), indices=(64, 65, 66, 67))
        >>> stats = GradStats.of({"a": nan}, step=7, loss=nan)
        >>> detector.wants_batch_stats(detector.init(), stats)
        True
        >>> from dataclasses import replace
        >>> print(*detector.update(detector.init(), replace(stats, batch_stats=look))[1])
        step 7: bad_batch: samples 1 and 3 of the batch hold NaN (65 and 67 in the dataset)
    """

    kind: ClassVar[str] = "bad_batch"
    limit: float = 1e3
    far: float = 10.0
    warmup: int = 20
    patience: int = 20
    name: str = "bad_batch"

    def __post_init__(self) -> None:
        for field in ("limit", "far"):
            require(getattr(self, field) > 1, f"BadBatch({field}=...)", "must be above 1", getattr(self, field))
        for field in ("warmup", "patience"):
            require(getattr(self, field) >= 1, f"BadBatch({field}=...)", "must be at least 1", getattr(self, field))

    def init(self) -> State:
        return {"norm": 0.0, "loss": 0.0, "seen": 0, "vain": 0}

    def wants_batch_stats(self, state: State, stats: GradStats) -> bool:
        if stats.scaler_overflow:
            return False
        if not stats.clean:
            return True
        loss = 0.0 if stats.loss is None else abs(stats.loss)
        high = stats.global_norm > self.far * state["norm"] > 0 or loss > self.far * state["loss"] > 0
        return state["seen"] >= self.warmup and high

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.scaler_overflow:
            return state, ()
        if self.wants_batch_stats(state, stats):
            finding = self._judge(stats)
            if finding is not None:
                return state, (finding,)
            if not stats.clean or state["vain"] + 1 < self.patience:
                return {**state, "vain": state["vain"] + stats.clean}, ()
        loss = 0.0 if stats.loss is None else abs(stats.loss)
        norm = max(state["norm"], stats.global_norm)
        return {"norm": norm, "loss": max(state["loss"], loss), "seen": state["seen"] + 1, "vain": 0}, ()

    def _judge(self, stats: GradStats) -> Finding | None:
        look = stats.batch_stats
        if look is None:
            return None
        if not len(look.size):
            gone = f"the loss of micro-batch {look.micro + 1} of {look.of}; its samples are gone"
            return Finding(self.kind, stats.step, (), detail=gone) if look.micro >= 0 else None
        nan, inf = np.isnan(look.size), np.isinf(look.size)
        broken = nan | inf
        if broken.any():
            what = "NaN" if not inf.any() else "Inf" if not nan.any() else "NaN or Inf"
            return Finding(self.kind, stats.step, (), detail=samples(broken, look, f"hold{{s}} {what}"))
        if not (look.size > self.limit).any():
            return None
        why = samples(look.size > self.limit, look, "{are} far larger than the median one")
        return Finding(self.kind, stats.step, (), float(look.size.max()), self.limit, why)


def samples(bad: np.ndarray, look: BatchStats, what: str) -> str:
    """`samples 3 and 17 of the batch hold NaN`, with everything that is known about where they come from.

    Example:
        >>> samples(np.array([False, True]), BatchStats(micro=3, of=4, process=1), "hold{s} NaN")
        'sample 1 of the batch (micro-batch 4 of 4, process 1) holds NaN'
    """
    places = np.flatnonzero(bad).tolist()
    one = len(places) == 1
    where = [f"micro-batch {look.micro + 1} of {look.of}"] if look.micro >= 0 and look.of > 1 else []
    where += [f"process {look.process}"] if look.process >= 0 else []
    batch = "the batch" + (f" ({', '.join(where)})" if where else "")
    which = f"all {len(places)} samples" if all(bad) and not one else f"sample{'s' * (not one)} {listed(places)}"
    known = f" ({listed([look.indices[i] for i in places])} in the dataset)" if look.indices else ""
    return f"{which} of {batch} {what.format(s='s' * one, are='is' if one else 'are')}{known}"


def listed(numbers: Sequence[int]) -> str:
    """Rising numbers in words, at most eight of them.

    Example:
        >>> listed([3, 17]), listed([4, 5, 6]), listed(range(0, 20, 2))
        ('3 and 17', '4 to 6', '0, 2, 4, 6, 8, 10, 12, 14 and 2 more')
    """
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    names = tuple(map(str, numbers))
    return " and ".join(names) if len(names) == 2 else shortlist(names, most=8)
