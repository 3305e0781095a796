"""Recorded statistics through detectors with other settings: what would they have seen, and when?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lightning_gradguard.collect.loss_trend import INITIAL, follow, judge
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors import DETECTORS, AbstractDetector, diagnose
from lightning_gradguard.findings import OPEN, Incident
from lightning_gradguard.policy.ladders import LadderStates, Policy, decide
from lightning_gradguard.policy.presets import PRESETS
from lightning_gradguard.record.incident_tracker import IncidentTracker
from lightning_gradguard.record.report import Report
from lightning_gradguard.record.step_log import FOLDER, read_steps, recorded_optimizers


def replay_steps(
    steps: Iterable[GradStats], detectors: Sequence[AbstractDetector], policy: Policy, optimizer: str = ""
) -> tuple[Incident, ...]:
    """The incidents that `detectors` and `policy` would have told of these steps, with the remedies they would take.

    The steps are what they were: a remedy that was not taken then does not change what came after it.
    """
    states = {detector.name: detector.init() for detector in detectors}
    episodes = IncidentTracker(optimizer)
    standing: LadderStates = {}
    told: list[Incident] = []
    progress = INITIAL
    for stats in steps:
        progress = follow(progress, None if stats.multiple_optimizers else stats.loss, stats.lr, stats.total_steps)
        states, findings = diagnose(detectors, states, replace(stats, loss_trend=judge(progress)))
        standing, chosen = decide(standing, findings, policy)
        named = [(finding, tuple(remedy.name for remedy in rung)) for finding, rung in chosen]
        told += [incident for incident in episodes.update(named, standing, policy.calm) if incident.outcome != OPEN]
    return tuple(sorted([*told, *episodes.incidents.values()], key=lambda incident: incident.first_step))


def replay(
    run: Path,
    detectors: list[AbstractDetector] | None = None,
    policy: Literal["monitor", "protect", "repair"] | Policy = "protect",
) -> Report:
    """Runs the recorded statistics of a run through detectors again.

    Args:
        run: The run's directory, as given to TensorBoard.
        detectors: Detectors instead of the usual ones, e.g. `--detectors+=Exploding --detectors.factor=100`.
        policy: Whose ladders to climb.

    Raises:
        FileNotFoundError: If no steps were recorded there.
    """
    folder = Path(run) / FOLDER
    chosen = PRESETS[policy] if isinstance(policy, str) else policy
    looking = DETECTORS if detectors is None else detectors
    streams = {name: read_steps(folder, name) for name in recorded_optimizers(folder) or [""]}
    incidents = [i for name, steps in streams.items() for i in replay_steps(steps, looking, chosen, name)]
    return Report(max(steps[-1].step + 1 for steps in streams.values()), tuple(incidents))
