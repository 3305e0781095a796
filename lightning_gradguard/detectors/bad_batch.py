"""DIAGNOSE: samples of a batch that contain NaN or Inf, or are far too large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, advise_on_samples, require, times
from lightning_gradguard.findings import Finding, shortlist
from lightning_gradguard.renamed import renamed_fields


@renamed_fields(far="factor")
@dataclass(frozen=True)
class BadBatch(AbstractDetector):
    """Reports which samples of a batch contain NaN or Inf, or are far larger than the others, when a step goes wrong.

    The samples are measured only on a suspicious step: its loss or a gradient is not finite, or far above all earlier
    ones. They are reported by their index in the batch, and in the dataset where that is known. With gradient
    accumulation the losses show which micro-batch it was, but only the last one is still in memory. Of several
    processes the one with the worst sample is reported. A replay reports nothing, because batches are not recorded.

    Args:
        limit: Largest absolute value of a sample over that of the median sample. A forgotten unit (1,000 mm for 1 m)
            reaches 1,000; standardized features with heavy tails stay far below. Chosen, not measured.
        factor: Ratio of the loss or the gradient norm to its highest value so far that makes a step suspicious. 10 is
            low because measuring a batch is cheap. Chosen, not measured.
        warmup: First steps, on which only values that are not finite are suspicious. Chosen, not measured.
        patience: Suspicious steps in a row without a bad sample after which the new level counts as ordinary. Chosen,
            not measured.
        name: Key of the state.

    Raises:
        ValueError: If `limit` or `factor` is not above 1, or a count is not positive.

    Example:
        >>> detector, nan = BadBatch(), float("nan")
        >>> batch = BatchStats(np.array([1.0, nan, 1.2, nan]), indices=(64, 65, 66, 67))
        >>> stats = GradStats.of({"a": nan}, step=7, loss=nan)
        >>> detector.wants_batch_stats(detector.init(), stats)
        True
        >>> from dataclasses import replace
        >>> print(*detector.update(detector.init(), replace(stats, batch_stats=batch))[1])
        step 7: bad_batch: samples 1 and 3 of the batch (65 and 67 in the dataset) contain NaN
    """

    kind: ClassVar[str] = "bad_batch"
    page: ClassVar[str] = "nonfinite"
    asks_for_batch_stats: ClassVar[bool] = True
    limit: float = 1e3
    factor: float = 10.0
    warmup: int = 20
    patience: int = 20
    name: str = "bad_batch"

    def __post_init__(self) -> None:
        for field in ("limit", "factor"):
            require(getattr(self, field) > 1, f"BadBatch({field}=...)", "must be above 1", getattr(self, field))
        for field in ("warmup", "patience"):
            require(getattr(self, field) >= 1, f"BadBatch({field}=...)", "must be at least 1", getattr(self, field))

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return advise_on_samples(stats) or "look at the samples of this batch"

    def init(self) -> State:
        return {"norm": 0.0, "loss": 0.0, "steps": 0, "suspicious": 0}

    def wants_batch_stats(self, state: State, stats: GradStats) -> bool:
        if stats.scaler_overflow:
            return False
        if not stats.clean:
            return True
        loss = 0.0 if stats.loss is None else abs(stats.loss)
        high = stats.global_norm > self.factor * state["norm"] > 0 or loss > self.factor * state["loss"] > 0
        return bool(state["steps"] >= self.warmup and high)

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.scaler_overflow:
            return state, ()
        if self.wants_batch_stats(state, stats):
            finding = self._judge(stats)
            if finding is not None:
                return state, (finding,)
            if not stats.clean or state["suspicious"] + 1 < self.patience:
                return {**state, "suspicious": state["suspicious"] + stats.clean}, ()
        loss = 0.0 if stats.loss is None else abs(stats.loss)
        norm = max(state["norm"], stats.global_norm)
        return {"norm": norm, "loss": max(state["loss"], loss), "steps": state["steps"] + 1, "suspicious": 0}, ()

    def _judge(self, stats: GradStats) -> Finding | None:
        batch = stats.batch_stats
        if batch is None:
            return None
        if not len(batch.size):
            which = f"micro-batch {batch.micro_batch + 1} of {batch.micro_batches}"
            which += f" ({list_numbers(batch.indices)} in the dataset)" if batch.indices else ""
            detail = f"loss of {which} is not finite or far above the others; its samples are no longer in memory"
            return Finding(self.kind, stats.step, (), detail=detail) if batch.micro_batch >= 0 else None
        nan, inf = np.isnan(batch.size), np.isinf(batch.size)
        broken, large = nan | inf, batch.size > self.limit
        if broken.any():
            what = "NaN" if not inf.any() else "Inf" if not nan.any() else "NaN or Inf"
            verb = "contains" if broken.sum() == 1 else "contain"
            detail = f"{describe_samples(broken, batch)} {verb} {what}"
            return Finding(self.kind, stats.step, (), detail=detail, samples=samples_of(broken, batch))
        if not large.any():
            return None
        most = float(batch.size.max())
        verb = "is" if large.sum() == 1 else "are up to"
        detail = f"{describe_samples(large, batch)} {verb} {times(most, 1.0)} times as large as the median sample"
        detail += f" (limit {self.limit:,.6g} times)"
        return Finding(self.kind, stats.step, (), most, self.limit, detail, samples_of(large, batch))


def samples_of(bad: NDArray[np.bool_], batch: BatchStats) -> tuple[int, ...]:
    """Indices in the dataset of the samples meant, `[N]`; empty when unknown."""
    return tuple(batch.indices[i] for i in np.flatnonzero(bad)) if batch.indices else ()


def describe_samples(bad: NDArray[np.bool_], batch: BatchStats) -> str:
    """Which samples of which batch, with all that is known about their origin.

    Args:
        bad: Which samples are meant, `[N]`.
        batch: The batch they are in.

    Example:
        >>> describe_samples(np.array([False, True]), BatchStats(micro_batch=3, micro_batches=4, process=1))
        'sample 1 of the batch (micro-batch 4 of 4, process 1)'
    """
    places = np.flatnonzero(bad).tolist()
    one = len(places) == 1
    origin = []
    if batch.micro_batch >= 0 and batch.micro_batches > 1:
        origin.append(f"micro-batch {batch.micro_batch + 1} of {batch.micro_batches}")
    if batch.process >= 0:
        origin.append(f"process {batch.process}")
    if batch.indices:
        origin.append(f"{list_numbers([batch.indices[i] for i in places])} in the dataset")
    which = f"all {len(places)} samples" if all(bad) and not one else f"sample{'s' * (not one)} {list_numbers(places)}"
    return f"{which} of the batch" + (f" ({', '.join(origin)})" if origin else "")


def list_numbers(numbers: Sequence[int]) -> str:
    """Rising numbers as text, at most eight of them.

    Example:
        >>> list_numbers([3, 17]), list_numbers([4, 5, 6]), list_numbers(range(0, 20, 2))
        ('3 and 17', '4 to 6', '0, 2, 4, 6, 8, 10, 12, 14 and 2 more')
    """
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    names = tuple(map(str, numbers))
    return " and ".join(names) if len(names) == 2 else shortlist(names, most=8)
