"""One optimizer's step in five calls: collect, diagnose, decide, act, record. A run and a replay both go through it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from lightning_gradguard.arguments import warn_switched_off
from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.collect.loss_trend import INITIAL, LOSS_TREND, follow, judge, renewed
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors import AbstractDetector, State, diagnose
from lightning_gradguard.findings import KEPT, Finding, Incident, Origin, StepOutcome, StepReport
from lightning_gradguard.policy import Policy, decide
from lightning_gradguard.policy.ladders import LadderState, LadderStates, Rung
from lightning_gradguard.record.incident_tracker import IncidentTracker
from lightning_gradguard.tensors.checkpointing import from_checkpoint, load_parts, to_checkpoint


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


class Acting(Protocol):
    """What carries out an engine's decisions: on a run, or as its recording says."""

    @property
    def in_trial(self) -> bool:
        """Whether the next step belongs to a trial of remedies, so that no detector is asked."""
        ...

    def act(self, stats: GradStats, chosen: Sequence[tuple[Finding, Rung]], sound: bool) -> StepOutcome:
        """Answers the findings of one step."""
        ...


class StepEngine:
    """The five calls of a step, and the plain values that they pass on from step to step.

    Args:
        source: Collects.
        detectors: Diagnose. One that raises is switched off for the rest of the run, with a warning.
        policy: Decides.
        actor: Acts.
        name: The optimizer's index when there are several; otherwise empty.
        snapshots: How many snapshots the actor keeps.

    Attributes:
        steps: Steps so far.
        states: What the detectors remember, by name.
        changed: Incidents that began, changed or ended in the last step.
    """

    def __init__(
        self,
        source: Source,
        detectors: Sequence[AbstractDetector],
        policy: Policy,
        actor: Acting,
        *,
        name: str = "",
        snapshots: int = 2,
    ) -> None:
        self.source, self.policy, self.actor, self.name = source, policy, actor, name
        self.detectors = tuple(detectors)
        self.steps = 0
        self.states: dict[str, State] = {LOSS_TREND: INITIAL, **{d.name: d.init() for d in detectors}}
        self.ladders: LadderStates = {}
        self.incidents = IncidentTracker(name, source.origin)
        self.changed: list[Incident] = []
        self._snapshots = snapshots
        self._states_at: dict[int, dict[str, State]] = {}  # at the steps of the snapshots
        self._restored = False  # whether the last step ended with a rollback
        self._index_detectors()

    def _index_detectors(self) -> None:
        """What every step needs to know about the detectors, looked up once."""
        self._asking = [d for d in self.detectors if d.asks_for_batch_stats]
        self._reset_on_cancel = [LOSS_TREND, *(d.name for d in self.detectors if d.ignore_cancelled)]
        self._limited = [d.name for d in self.detectors if "limit" in self.states[d.name]]

    def step(self, *inputs: Any) -> StepReport:
        """One step, from its gradients to its report.

        Args:
            inputs: What the source needs.
        """
        in_trial = self.actor.in_trial
        before = self.states
        stats = self._collect(inputs, in_trial)
        findings: tuple[Finding, ...] = ()
        chosen: tuple[tuple[Finding, Rung], ...] = ()
        if not in_trial:
            self.states, findings = diagnose(self.detectors, self.states, stats, self._switch_off)
            if findings or self.ladders:
                self.ladders, chosen = decide(self.ladders, findings, self.policy)
        outcome = self.actor.act(stats, chosen, not any(state.get("hold_snapshots") for state in self.states.values()))
        self._follow(stats.step, outcome, before)
        return self._record(stats, findings, chosen, outcome)

    def _collect(self, inputs: tuple[Any, ...], in_trial: bool) -> GradStats:
        """The step's statistics; the loss trend follows them, except during a trial."""
        measured = self.source.collect(*inputs)
        loss = None if measured.get("multiple_optimizers") else measured["loss"]
        steps, activations = measured.get("total_steps"), measured["activation_stats"]
        trend = follow(self.states[LOSS_TREND], loss, measured["lr"], steps, activations)
        stats = GradStats(**{"step": self.steps, **measured, "restored": self._restored, "loss_trend": trend["trend"]})
        if in_trial:
            return stats
        self.states = {**self.states, LOSS_TREND: trend}
        return replace(stats, batch_stats=self.source.batch_stats()) if self._is_suspicious(stats) else stats

    def _is_suspicious(self, stats: GradStats) -> bool:
        """Whether a detector asks for the samples of the step's batch."""
        for detector in self._asking:
            try:
                if detector.wants_batch_stats(self.states[detector.name], stats):
                    return True
            except Exception as error:
                self._switch_off(detector, error)
        return False

    def _switch_off(self, detector: AbstractDetector, error: Exception) -> None:
        """A detector that has raised is not asked any more."""
        self.detectors = tuple(d for d in self.detectors if d is not detector)
        self._index_detectors()
        warn_switched_off("detector", detector, error)

    def _follow(self, step: int, outcome: StepOutcome, before: dict[str, State]) -> None:
        """What the step's outcome means for the detectors' states."""
        if outcome.cancelled and not outcome.in_trial:
            self.states |= {name: before[name] for name in self._reset_on_cancel}
        if outcome.restored is not None:
            self._states_at = {at: states for at, states in self._states_at.items() if at <= outcome.restored}
            self.states = dict(self._states_at.get(outcome.restored, self.states))
        if outcome.model_changed:
            improved = outcome.trial is not None and outcome.trial.improved
            after = {d.name: d.renew(self.states[d.name], improved) for d in self.detectors}
            self.states = {**self.states, **after, LOSS_TREND: renewed(self.states[LOSS_TREND], improved)}
            self._states_at = {}
        if outcome.snapshot:
            self._states_at[step] = dict(self.states)
            for oldest in sorted(self._states_at)[: -self._snapshots]:
                del self._states_at[oldest]
        self._restored = outcome.restored is not None
        self.steps = step + 1

    def _record(
        self,
        stats: GradStats,
        findings: tuple[Finding, ...],
        chosen: tuple[tuple[Finding, Rung], ...],
        outcome: StepOutcome,
    ) -> StepReport:
        event = outcome.trial
        responses = zip(chosen, outcome.responses, strict=True)
        answered = [(finding, tuple(a.name for a in response.actions)) for (finding, _), response in responses]
        if event is not None and event.kind == KEPT:  # the trial has shown what was wrong
            findings = (Finding(event.cause, stats.step, (), event.loss, detail=f"found by trial: {event}"),)
            answered = [(findings[0], (event.remedies,))]
        known = answered or self.incidents.incidents
        self.changed = self.incidents.update(answered, event, self._is_over, outcome.stopped_by) if known else []
        limit = max([self.states[name]["limit"] for name in self._limited], default=math.nan)
        return StepReport(stats=stats, findings=findings, outcome=outcome, limit=limit, optimizer=self.name)

    def _is_over(self, kind: str) -> bool:
        """Whether a kind has not been reported for as many healthy steps as end its incident."""
        return kind not in self.ladders or self.ladders[kind].healthy_steps >= self.policy.steps_to_resolve

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, as plain dicts, lists, numbers, strings and tensors."""
        return {
            "steps": self.steps,
            "detectors": to_checkpoint(self.states),
            "ladders": to_checkpoint(self.ladders),
            "policy": {kind: repr(self.policy.rungs.get(kind)) for kind in self.ladders},
            "incidents": self.incidents.state_dict(),
            "restored": self._restored,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`; a part that is missing or of another form is reset, with a warning."""
        load_parts(state, self._loaders())

    def _loaders(self) -> dict[str, Callable[[Any], None]]:
        return {
            "steps": self._load_steps,
            "detectors": self._load_detectors,
            "ladders": self._load_ladders,
            "policy": self._compare_policy,
            "incidents": self.incidents.load_state_dict,
            "restored": self._load_restored,
        }

    def _load_steps(self, steps: Any) -> None:
        self.steps = int(steps)

    def _load_detectors(self, states: Any) -> None:
        """States of the detectors that the checkpoint knows; the others keep their initial state."""
        self.states = self._states_from(states)

    def _states_from(self, plain: Any) -> dict[str, State]:
        known = from_checkpoint(plain)
        fitting = {name for name, state in self.states.items() if name in known and state.keys() <= known[name].keys()}
        for name in self.states.keys() & known.keys() - fitting:
            warn_other_form(name, self.states[name], known[name])
        states = self.states | {name: known[name] for name in fitting}
        return {**states, LOSS_TREND: {**states[LOSS_TREND], "trend": judge(states[LOSS_TREND])}}

    def _load_ladders(self, ladders: Any) -> None:
        self.ladders = {kind: LadderState(int(rung), int(healthy)) for kind, (rung, healthy) in ladders.items()}

    def _compare_policy(self, ladders: Any) -> None:
        """A kind whose ladder is another one now begins at its first rung."""
        other = [kind for kind in self.ladders if ladders[kind] != repr(self.policy.rungs.get(kind))]
        self.ladders = {kind: state for kind, state in self.ladders.items() if kind not in other}
        if other:
            warnings.warn(
                f"GradGuard starts at the first rung for {', '.join(other)}: their ladders are not those of the run "
                "that saved the checkpoint.",
                stacklevel=2,
            )

    def _load_restored(self, restored: Any) -> None:
        self._restored = bool(restored)


def warn_other_form(detector: str, wanted: State, found: State) -> None:
    """Says that a detector begins afresh because its state in the checkpoint has not got what it needs."""
    missing = ", ".join(sorted(wanted.keys() - found.keys()))
    warnings.warn(
        f"GradGuard starts the detector {detector!r} afresh: its state in the checkpoint has no {missing}.",
        stacklevel=2,
    )
