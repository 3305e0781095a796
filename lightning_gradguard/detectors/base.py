"""DIAGNOSE: the interface of a detector: frozen configuration, plain state, a pure `update`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from lightning_gradguard.arguments import require as require
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import Finding
from lightning_gradguard.renamed import adopt_renamed
from lightning_gradguard.tensors.norms import Floats

#: Everything a detector remembers: a dict of numbers, strings, lists and numpy arrays.
State = dict[str, Any]


#: Largest absolute value of a sample over that of the median sample, from which on advice is about samples. Chosen, as
#: in `BadBatch`.
TOO_LARGE = 1e3

#: Old names of what a detector may define.
RENAMED = {
    "skips_cancelled": "ignore_cancelled", "waits": "only_on_extra_stats", "wants_batch": "wants_batch_stats",
}  # fmt: skip


class AbstractDetector(ABC):
    """Looks for one symptom in a stream of `GradStats`.

    Subclasses are final frozen dataclasses whose fields are the configuration. Everything that changes is in the state,
    a plain value that is passed in and returned: `update` never modifies the state it is given. Resuming, rolling back,
    replaying and testing a detector therefore need no code of their own.

    Attributes:
        kind: The symptom; the policy chooses its remedies by it.
        ignore_cancelled: Whether a cancelled step leaves the state as it was before.
        only_on_extra_stats: Whether `update` need only be called on steps with `GradStats.has_extra_stats`.
        asks_for_batch_stats: Whether `wants_batch_stats` need be called at every step.
        asks_for_recheck: Whether `wants_recheck`, `wants_comparison` and `wants_snapshot` need be called at every step.
        only_about_loss: Whether a finding says no more than that the loss is too high, so that a snapshot is only worth
            going back to if the loss of the same batches is lower there.
        page: The page of `docs/symptoms` about the symptom; empty for none.
        name: Key of the detector's state. Two detectors of one class need different names.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        adopt_renamed(cls, RENAMED)

    kind: ClassVar[str]
    ignore_cancelled: ClassVar[bool] = False
    only_on_extra_stats: ClassVar[bool] = False
    asks_for_batch_stats: ClassVar[bool] = False
    asks_for_recheck: ClassVar[bool] = False
    only_about_loss: ClassVar[bool] = False
    page: ClassVar[str] = ""
    name: str

    @abstractmethod
    def init(self) -> State:
        """The state before the first step."""

    def renew(self, state: State, improved: bool) -> State:
        """The state after a remedy changed the model, which makes most baselines obsolete; by default a new one.

        Args:
            state: The state before.
            improved: Whether the change has already lowered the loss by a tenth.
        """
        return self.init()

    def wants_batch_stats(self, state: State, stats: GradStats) -> bool:
        """Whether the samples of this step's batch should be measured (`GradStats.batch_stats`)."""
        return False

    def wants_recheck(self, state: State, stats: GradStats) -> bool:
        """Whether the last healthy batch should be measured again with the present weights (`GradStats.recheck`)."""
        return False

    def wants_comparison(self, state: State, stats: GradStats) -> bool:
        """Whether the last batches should be measured with the newest snapshot (`GradStats.comparison`)."""
        return False

    def confirms_weights(self, state: State, stats: GradStats) -> bool:
        """Whether `GradStats.recheck` shows that the weights are good, so that the data are at fault."""
        return False

    def wants_snapshot(self, state: State, stats: GradStats) -> bool:
        """Whether the weights from before this step should be kept, with the state after `update`."""
        return False

    @abstractmethod
    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        """The state after one more step, and the findings of this step.

        A finding is repeated on every step that shows the symptom, and its `detail` holds the number and the limit. A
        flagged step never enters a baseline. When the number of layers changes (a layer was unfrozen), baselines of
        single layers start over.

        Two keys of a state are read by others: `"limit"`, present from `init` on, is the present limit of the gradient
        norm, for plots; while `"hold_snapshots"` is true, no snapshot is taken, because the run may have gone wrong.
        """

    def advise(self, finding: Finding, stats: GradStats) -> str:
        """What to change by hand, as a request with a number where one is known; by default nothing.

        Args:
            finding: The first finding of an incident.
            stats: The step it was found on.
        """
        return ""


def lower_lr(stats: GradStats, factor: float = 0.1) -> str:
    """The advice to lower the learning rate.

    Example:
        >>> lower_lr(GradStats.of({"a": 1.0}, lr=0.5))
        'lower the learning rate from 0.5 to about 0.05'
    """
    rate = stats.lr * factor
    return "lower the learning rate" + (f" from {stats.lr:.2g} to about {rate:.1g}" if 0 < rate < math.inf else "")


def advise_on_samples(stats: GradStats) -> str:
    """The advice where samples of the step's batch are not finite, or far larger than the others; else nothing."""
    batch = stats.batch_stats
    bad = batch is not None and not (batch.size <= TOO_LARGE).all()
    return "clean the samples that are named, or exclude them from the data" if bad else ""


def median(values: Iterable[float]) -> float:
    """The median; NaN when there are no values."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if not ordered:
        return math.nan
    return ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])


def times(value: float, reference: float) -> str:
    """How many times `reference` a value is, for messages.

    Example:
        >>> times(9.1e5, 24.0), times(3.0, 2.0), times(1e9, 2.0)
        ('37,917', '1.5', '5e+08')
    """
    ratio = value / reference
    return f"{ratio:,.0f}" if 10 <= ratio < 1e6 else f"{ratio:.3g}"


def diagnose(
    detectors: Iterable[AbstractDetector],
    states: dict[str, State],
    stats: GradStats,
    failed: Callable[[AbstractDetector, Exception], None] | None = None,
) -> tuple[dict[str, State], tuple[Finding, ...]]:
    """Runs every detector on one step.

    Args:
        detectors: The detectors, in the order of their findings.
        states: Their states, by detector name.
        stats: The step's measurements.
        failed: Called with a detector that has raised, whose state then stays; by default the exception is raised.

    Returns:
        The states after the step, and all findings.
    """
    after, findings = dict(states), list[Finding]()
    for detector in detectors:
        if detector.only_on_extra_stats and not stats.has_extra_stats:
            continue
        try:
            after[detector.name], found = detector.update(states[detector.name], stats)
        except Exception as error:
            if failed is None:
                raise
            failed(detector, error)
            continue
        findings += found
    return after, tuple(findings)


def empty_record() -> State:
    """The state that `update_record` starts from."""
    return {"early": [], "highest": None}


def update_record(record: State, row: Floats, warmup: int, factor: float) -> State:
    """The record after one more healthy row of norms: `"highest"` is the maximum of each element so far.

    The first `warmup` rows are judged together, so that an outlier among them (more than `factor` times their median)
    does not become the record; until then `"highest"` is None, and an element of only outliers is 0. A row of another
    length starts the record over.
    """
    highest = record["highest"]
    if highest is not None and len(highest) == len(row):
        return {"early": [], "highest": np.maximum(highest, row)}
    early = [kept for kept in record["early"] if len(kept) == len(row)] + [row]
    if len(early) < warmup:
        return {"early": early, "highest": None}
    rows = np.stack(early)
    usual = rows / factor <= np.median(rows, axis=0)
    return {"early": [], "highest": np.where(usual, rows, 0.0).max(axis=0)}


def highest_so_far(record: State, length: int) -> Floats:
    """The maximum of each of `length` elements so far, also while a record is still early; 0 where there is none.

    Example:
        >>> highest_so_far({"early": [np.array([1.0, 5.0]), np.array([2.0, 3.0])], "highest": None}, length=2)
        array([2., 5.])
    """
    rows = record["early"] if record["highest"] is None else [record["highest"]]
    return np.asarray(np.max([row for row in rows if len(row) == length], axis=0, initial=0.0) * np.ones(length))


def decades_above(row: Floats, highest: Floats) -> Floats:
    """Decades by which norms exceed the highest so far; 0 where one of the two is zero."""
    ratio = np.divide(row, highest, out=np.ones_like(row), where=(highest > 0) & (row > 0))
    return np.asarray(np.log10(ratio))
