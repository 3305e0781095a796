"""What an engine needs: a source that measures steps, and an actor that carries out decisions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.collect.stats import Comparison, GradStats
from lightning_gradguard.findings import Finding, Origin, StepOutcome, TrialEvent
from lightning_gradguard.policy.ladders import Rung


class Source(Protocol):
    """Where an engine's measurements come from: a run, or its recording."""

    def collect(self, *inputs: Any) -> dict[str, Any]:
        """The next step's measurements: fields of `GradStats`."""
        ...

    def batch_stats(self) -> BatchStats | None:
        """The samples of the step's batch, asked for when a detector finds the step suspicious."""
        ...

    def origin(self) -> Origin:
        """When and where the step was, asked for when an incident begins."""
        ...

    def recheck(self) -> tuple[float, float] | None:
        """The loss of the last healthy batch when it was new and now, asked for when a detector wants it."""
        ...

    def compare(self, best: bool = False, until: int | None = None) -> Comparison | None:
        """The last batches with the present weights and with those of a snapshot.

        Args:
            best: Whether it is the best snapshot; otherwise the newest.
            until: No later one than of this step.
        """
        ...

    def first_nonfinite(self) -> tuple[str, ...]:
        """Where loss or gradient first were not finite, asked for on the first step on which they are not."""
        ...

    def nonfinite_state(self) -> tuple[str, ...]:
        """Layers whose weights or optimizer state are not finite, asked for when loss or gradients are not."""
        ...


class Acting(Protocol):
    """What carries out an engine's decisions: on a run, or as its recording says."""

    @property
    def event(self) -> TrialEvent | None:
        """The outcome of an experiment since the last step, if there was one."""
        ...

    @property
    def held_snapshots(self) -> Sequence[int] | None:
        """Steps of the snapshots that may still be restored; None when that is not known."""
        ...

    def snapshot_is_due(self, step: int) -> bool:
        """Whether a snapshot will be taken if the step is healthy."""
        ...

    def ask_for_snapshot(self, step: int) -> None:
        """Takes a snapshot at this step, if it is healthy."""
        ...

    def confirm_weights(self) -> None:
        """The weights are known to be good: whatever is wrong with the step comes from its data."""
        ...

    def suspect_weights(self, since: int | None = None) -> None:
        """The weights are not good, whatever was thought of them before; nor are snapshots after the step `since`."""
        ...

    def put_back(self, best: bool) -> int | None:
        """Puts a snapshot back between two steps, the newest or the best; its step, None without one."""
        ...

    def act(
        self, stats: GradStats, chosen: Sequence[tuple[Finding, Rung]], sound: bool, loss: float = math.nan
    ) -> StepOutcome:
        """Answers the findings of one step; `loss` tells where the loss stands."""
        ...
