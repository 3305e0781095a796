"""DIAGNOSE: what every detector is: frozen configuration, plain state, a pure `update`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import Finding
from lightning_gradguard.tensors.norms import Floats

#: Everything a detector remembers: a dict of numbers, strings, lists and numpy arrays.
State = dict[str, Any]


class AbstractDetector(ABC):
    """A symptom, looked for in a stream of `GradStats`.

    Subclasses are final frozen dataclasses: their fields are the configuration, every default has a source, a
    measurement or the word "chosen". What evolves is the state, a plain value that goes in and comes out; `update`
    never changes the state it was given. So resuming, rewinding, replaying and testing are all the same thing.

    Attributes:
        kind: The symptom reported, the key of the policy's ladders.
        ignore_cancelled: Whether a step that was cancelled leaves no trace in the state.
        only_on_extra_stats: Whether `update` need only be called when `GradStats.has_extra_stats`.
        name: Key of this detector's state; give two detectors of one class different names.
    """

    kind: ClassVar[str]
    ignore_cancelled: ClassVar[bool] = False
    only_on_extra_stats: ClassVar[bool] = False
    name: str

    @abstractmethod
    def init(self) -> State:
        """The state before the first step."""

    def renew(self, state: State, improved: bool) -> State:
        """The state after the model was repaired: what was learnt about the old one is void.

        Args:
            state: The state before.
            improved: Whether the repair has already lowered the loss by a tenth.
        """
        return self.init()

    def wants_batch_stats(self, state: State, stats: GradStats) -> bool:
        """Whether the step is suspicious enough to measure the samples of its batch, in `stats.batch_stats`."""
        return False

    @abstractmethod
    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        """The state after one more step, and what was found in it.

        A finding is repeated at every step at which the symptom is there. A step that is flagged never enters a
        baseline. When the number of layers changes (a layer was unfrozen), per-layer baselines begin anew.
        A state may hold, from `init` on, `"limit"`, the gradient-norm limit in force, for the panels. While it holds a
        true `"worse"`, the run is worse than lately, perhaps for good, and no snapshot is taken.
        """


def require(condition: bool, call: str, rule: str, value: object) -> None:
    """Raises the one form of configuration error.

    Example:
        >>> require(False, "Exploding(factor=...)", "must be above 1", 0.5)
        Traceback (most recent call last):
        ValueError: `Exploding(factor=...)` must be above 1, got 0.5.
    """
    if not condition:
        raise ValueError(f"`{call}` {rule}, got {value!r}.")


def median(values: Iterable[float]) -> float:
    """The median; NaN of nothing."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if not ordered:
        return math.nan
    return ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])


def diagnose(
    detectors: Iterable[AbstractDetector], states: dict[str, State], stats: GradStats
) -> tuple[dict[str, State], tuple[Finding, ...]]:
    """Runs every detector over one step: the new states by detector name, and all findings."""
    after, findings = dict(states), list[Finding]()
    for detector in detectors:
        if detector.only_on_extra_stats and not stats.has_extra_stats:
            continue
        after[detector.name], found = detector.update(states[detector.name], stats)
        findings += found
    return after, tuple(findings)


def empty_record() -> State:
    """State of a `record`: nothing seen yet."""
    return {"early": [], "highest": None}


def learn(record: State, row: Floats, warmup: int, factor: float) -> State:
    """A record with one more healthy row of norms: the highest seen so far, element by element; 0 where none was.

    The first `warmup` rows are kept and judged together, so that an outlier among them (more than `factor` times
    their median) does not become the record. A row of another length begins anew.
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


def excess(row: Floats, record: Floats) -> Floats:
    """Decades by which norms exceed their record; 0 where there is none."""
    ratio = np.divide(row, record, out=np.ones_like(row), where=(record > 0) & (row > 0))
    return np.asarray(np.log10(ratio))
