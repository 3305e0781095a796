"""A recorded run through the engine again: which incidents would other detectors or another policy report?"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any, Literal

from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.collect.stats import Comparison, GradStats
from lightning_gradguard.detectors import AbstractDetector, list_detectors
from lightning_gradguard.engine import StepEngine
from lightning_gradguard.findings import OPEN, Action, Finding, Incident, Origin, Response, StepOutcome, TrialEvent
from lightning_gradguard.policy import PRESETS, Policy
from lightning_gradguard.policy.ladders import Rung
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.report import Report
from lightning_gradguard.record.step_format import FOLDER, recorded_optimizers
from lightning_gradguard.record.step_log import RecordedStep, read_steps

#: What an engine collects; the rest of `GradStats` it works out by itself.
COLLECTED = [
    field.name
    for field in fields(GradStats)
    if field.init and field.name not in ("restored", "loss_trend", "batch_stats")
]


class Recording:
    """A recorded run as an engine's source and actor: it hands out what was measured, and acts as the run did.

    Args:
        steps: The recorded steps, in order.

    Attributes:
        differing: How many findings were answered by remedies that the run had not chosen for them.
    """

    def __init__(self, steps: Sequence[RecordedStep]) -> None:
        self.steps, self.differing, self._at = steps, 0, -1

    @property
    def event(self) -> TrialEvent | None:
        """The outcome of an experiment before the next step, if there was one."""
        return self.steps[self._at + 1].outcome.trial

    def collect(self) -> dict[str, Any]:
        """The next step's measurements."""
        self._at += 1
        return {name: getattr(self.steps[self._at].stats, name) for name in COLLECTED}

    def batch_stats(self) -> BatchStats | None:
        """The samples of the step's batch, if they were recorded."""
        return self.steps[self._at].stats.batch_stats

    def origin(self) -> Origin:
        """When and where the step was; only its learning rate where no incident of the run began."""
        step = self.steps[self._at]
        return step.origin if step.origin is not None else Origin(lr=step.stats.lr)

    def recheck(self) -> tuple[float, float] | None:
        """The loss of the last healthy batch when it was new and then, where the run has measured it again."""
        return self.steps[self._at].stats.recheck

    def compare(self, best: bool = False, until: int | None = None) -> Comparison | None:
        """Mean losses with the weights of then and of a snapshot, where the run has compared them."""
        return self.steps[self._at].stats.comparison

    def first_nonfinite(self) -> tuple[str, ...]:
        """The operation in which loss or gradient first were not finite, where the run has looked."""
        return self.steps[self._at].stats.first_nonfinite

    def nonfinite_state(self) -> tuple[str, ...]:
        """Layers whose weights or optimizer state were not finite, where the run has looked."""
        return self.steps[self._at].stats.nonfinite_state

    @property
    def held_snapshots(self) -> None:
        """Not recorded."""
        return

    def snapshot_is_due(self, step: int) -> bool:
        """Whatever the run took is recorded."""
        return False

    def ask_for_snapshot(self, step: int) -> None:
        """Nothing: whatever the run took is recorded."""

    def confirm_weights(self) -> None:
        """Nothing: what the run did is recorded."""

    def suspect_weights(self, since: int | None = None) -> None:
        """Nothing: what the run did is recorded."""

    def put_back(self, best: bool) -> int | None:
        """Nothing: what the run put back is taken from its record."""
        return None

    def act(
        self, stats: GradStats, chosen: Sequence[tuple[Finding, Rung]], sound: bool, loss: float = math.nan
    ) -> StepOutcome:
        """What the run did; a finding that it did not answer in this way is told the remedies that are chosen now."""
        outcome = self.steps[self._at].outcome
        known = {response.kind: response for response in outcome.responses}
        return replace(outcome, responses=tuple(self._answer(known, finding, rung) for finding, rung in chosen))

    def _answer(self, known: dict[str, Response], finding: Finding, rung: Rung) -> Response:
        remedies = tuple(map(repr, rung))
        recorded = known.get(finding.kind, Response(finding.kind))
        if recorded.remedies == remedies:
            return recorded
        self.differing += 1
        return Response(finding.kind, remedies, tuple(Action(remedy.name, "not applied: a replay") for remedy in rung))


def replay_steps(
    steps: Iterable[RecordedStep], detectors: Sequence[AbstractDetector], policy: Policy, optimizer: str = ""
) -> tuple[tuple[Incident, ...], int]:
    """The incidents of recorded steps, and how many findings were answered otherwise than in the run.

    The steps are what they were: a remedy that was not applied then does not change what came after it.
    """
    recording = Recording(list(steps))
    engine = StepEngine(recording, detectors, policy, recording, name=optimizer)
    closed: list[Incident] = []
    for _ in recording.steps:
        report = engine.step()
        closed += [incident for incident in engine.changed if incident.outcome != OPEN]
        if report.outcome.restoration is not None:
            engine.take_in(report.outcome.restoration)
    closed += engine.close_incidents()
    return tuple(sorted(closed, key=lambda incident: incident.first_step)), recording.differing


def replay(
    run: str | os.PathLike[str],
    detectors: list[AbstractDetector] | None = None,
    policy: Literal["monitor", "protect", "repair"] | Policy = "protect",
) -> Report:
    """Runs the recorded statistics of a run through detectors again.

    With the run's own detectors and policy it gives the run's incidents.

    Args:
        run: The run's directory, as given to TensorBoard; `gradguard/NAME` in it for a guard with a name.
        detectors: Detectors instead of the default ones, e.g. `--detectors+=Exploding --detectors.factor=100`.
        policy: Which policy answers the findings.

    Returns:
        The report; its `notes` say what the replay cannot know.

    Raises:
        FileNotFoundError: If no steps were recorded there.
        ValueError: If the recording has another format.
    """
    folder = Location(run) / FOLDER
    chosen = PRESETS[policy] if isinstance(policy, str) else policy
    streams = {name: read_steps(folder, name) for name in recorded_optimizers(folder) or [""]}
    incidents: list[Incident] = []
    notes: list[str] = []
    for name, steps in streams.items():
        found, differing = replay_steps(steps, list_detectors() if detectors is None else detectors, chosen, name)
        incidents += found
        notes += notes_on(steps, differing)
    return Report(max(steps[-1].stats.step + 1 for steps in streams.values()), tuple(incidents), notes=tuple(notes))


def notes_on(steps: Sequence[RecordedStep], differing: int) -> list[str]:
    """What a replay of these steps cannot know, a sentence each."""
    missing = steps[0].stats.step + sum(b.stats.step - a.stats.step - 1 for a, b in pairwise(steps))
    notes = [f"{missing} steps are missing in the recording."] if missing else []
    if differing:
        notes.append(
            f"{differing} findings were answered by other remedies than in the run: the steps after them are those of "
            "the run, not what these remedies would have led to."
        )
    return notes
