"""One optimizer's step in five calls: collect, diagnose, decide, act, record. A run and a replay both go through it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lightning_gradguard.arguments import warn_switched_off
from lightning_gradguard.collect.loss_level import (
    FEWEST,
    LOSS_LEVEL,
    NEAR_BEST,
    ended,
    follow_level,
    level_since,
    limit_above,
    standing_of,
)
from lightning_gradguard.collect.loss_level import INITIAL as NO_LEVEL
from lightning_gradguard.collect.loss_trend import INITIAL, LOSS_TREND, follow, judge, renewed
from lightning_gradguard.collect.stats import Comparison, GradStats
from lightning_gradguard.detectors import AbstractDetector, LossIncrease, NonFinite, NonFiniteState, State, diagnose
from lightning_gradguard.findings import (
    DEGRADED,
    EXHAUSTED,
    KEPT,
    OPEN,
    RESOLVED,
    Finding,
    Incident,
    Restoration,
    StepOutcome,
    StepReport,
)
from lightning_gradguard.policy import PROTECT, REPAIR, Policy, decide
from lightning_gradguard.policy.ladders import LadderState, LadderStates, Rung
from lightning_gradguard.protocols import Acting, Source
from lightning_gradguard.record.incident_tracker import IncidentTracker
from lightning_gradguard.remedies import Rollback
from lightning_gradguard.tensors.checkpointing import from_checkpoint, load_parts, to_checkpoint

#: Shares of the progress so far that the loss may have lost when an incident counts as resolved, and when a snapshot is
#: taken. Chosen.
BACK, FAR = 0.05, 0.5
#: Standard errors by which the loss of the last batches must differ between the final weights and a snapshot's. Chosen.
ERRORS = 2.0
#: Steps between the first two comparisons of the present weights with those of a snapshot. Chosen.
FIRST_PAUSE = 4
#: Skipped steps in one incident after which the weights from before it are looked at; a second time, because at the
#: first another comparison may be due. Chosen.
AGAIN = (4, 5)


class StepEngine:
    """The five calls of a step, and the plain values that they pass on from step to step.

    Args:
        source: Collects.
        detectors: Diagnose. One that raises is switched off for the rest of the run, with a warning.
        policy: Decides.
        actor: Acts.
        name: The optimizer's index when there are several; otherwise empty.

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
    ) -> None:
        self.source, self.policy, self.actor, self.name = source, policy, actor, name
        self.detectors = tuple(detectors)
        self.steps = 0
        self.states: dict[str, State] = {
            LOSS_TREND: INITIAL,
            LOSS_LEVEL: NO_LEVEL,
            **{d.name: d.init() for d in detectors},
        }
        self.ladders: LadderStates = {}
        self.incidents = IncidentTracker(name, source.origin)
        self.changed: list[Incident] = []
        self._states_at: dict[int, dict[str, State]] = {}  # at the steps of the snapshots
        self._pause, self._next_look = FIRST_PAUSE, 0  # of comparisons with a snapshot
        self._stats: GradStats | None = None  # of the last step
        self._restored = False  # whether the last step ended with a rollback
        self._index_detectors()

    def _index_detectors(self) -> None:
        """What every step needs to know about the detectors, looked up once."""
        self._asking = [d for d in self.detectors if d.asks_for_batch_stats]
        self._kinds = {d.kind for d in self.detectors}
        self._only_about_loss = {d.kind for d in self.detectors if d.only_about_loss}
        self._rechecking = [d for d in self.detectors if d.asks_for_recheck]
        self._reset_on_cancel = [LOSS_TREND, *(d.name for d in self.detectors if d.ignore_cancelled)]
        self._limited = [d.name for d in self.detectors if "limit" in self.states[d.name]]

    def step(self, *inputs: Any) -> StepReport:
        """One step, from its gradients to its report.

        Args:
            inputs: What the source needs.
        """
        if self.actor.event is not None and self.actor.event.kind == KEPT:
            self._renew(improved=True)
        before = self.states
        stats = self._collect(inputs)
        chosen: tuple[tuple[Finding, Rung], ...] = ()
        self.states, findings = diagnose(self.detectors, self.states, stats, self._switch_off)
        if findings or self.ladders:
            ladders = self.ladders
            self.ladders, chosen = decide(ladders, findings, self.policy, stats.weights_known_good)
            stats, chosen = self._look_behind(*self._doubt(stats, chosen, ladders))
        wanted = self._wants_snapshot(stats) and not self.source.nonfinite_state()
        if wanted:
            self.actor.ask_for_snapshot(stats.step)
        due = self.actor.snapshot_is_due(stats.step)
        sound = due and (wanted or self._is_sound)
        outcome = self.actor.act(stats, chosen, sound, self.loss if due else math.nan)
        self._stats = stats
        self._follow(stats, outcome, before)
        return self._record(stats, findings, chosen, outcome)

    def _doubt(
        self, stats: GradStats, chosen: tuple[tuple[Finding, Rung], ...], before: LadderStates
    ) -> tuple[GradStats, tuple[tuple[Finding, Rung], ...]]:
        """Without the rungs that lead back to earlier weights for a high loss alone, where it is no lower there.

        The last healthy batch may have told that the weights are good though they are damaged for other batches: where
        the last ones do far better with earlier weights, it was wrong. A comparison that shows no better snapshot, or
        that cannot be made (manual optimization, a loop of your own), doubles the wait for the next one: the objective
        may have changed, as while the weight of a penalty grows, and then earlier weights do worse.
        """
        returning = [f.kind for f, rung in chosen if leads_back(rung)]
        doubted = [kind for kind in returning if kind in self._only_about_loss]
        if not (doubted or (returning and stats.weights_known_good)):
            return stats, chosen
        if stats.step >= self._next_look:
            if stats.comparison is None:
                stats = replace(stats, comparison=self.source.compare())
            if stats.comparison is not None and not stats.comparison[0] <= stats.comparison[1]:
                self._pause, self._next_look = FIRST_PAUSE, 0
                if is_far_above(stats.comparison):
                    self.actor.suspect_weights()
                return stats, chosen
            self._pause, self._next_look = 2 * self._pause, stats.step + self._pause
        for kind in doubted:
            self.ladders[kind] = before.get(kind, LadderState())._replace(healthy_steps=0)
        return stats, tuple((f, () if f.kind in doubted else rung) for f, rung in chosen)

    def _look_behind(
        self, stats: GradStats, chosen: tuple[tuple[Finding, Rung], ...]
    ) -> tuple[GradStats, tuple[tuple[Finding, Rung], ...]]:
        """With a rollback where steps are skipped again and again and the weights from before did far better.

        Damage that only some batches show lets the last healthy batch look as it did, and a healthy step between two
        skipped ones brings the ladder back to its first rung.
        """
        again = {f.kind: incident.first_step for f, rung in chosen if (incident := self._skipped_again(f, rung))}
        if not again or stats.comparison is not None or not self.policy.uses_snapshots:
            return stats, chosen
        since = min(again.values())
        stats = replace(stats, comparison=self.source.compare(until=since))
        if not is_far_above(stats.comparison):
            return stats, chosen
        chosen = tuple((f, (Rollback(),) if f.kind in again else rung) for f, rung in chosen)
        return self._suspect(stats, since), chosen

    def _skipped_again(self, finding: Finding, rung: Rung) -> Incident | None:
        """The incident of a finding that would be skipped like those of the four or five steps before it."""
        incident = self.incidents.incidents.get(finding.kind)
        skips = bool(rung) and all(remedy.only_skips for remedy in rung)
        return incident if skips and incident is not None and incident.count in AGAIN else None

    @property
    def _level(self) -> dict[str, Any]:
        return self.states[LOSS_LEVEL]

    @property
    def loss(self) -> float:
        """Where the loss stands: the median of the last ones; NaN when there are too few."""
        return level_since(self._level)

    @property
    def _reference(self) -> float:
        """Where the loss should come back to: its best; where it stands, while no best is known."""
        best: float = self._level["best"]
        return best if math.isfinite(best) else self.loss

    def _is_above_best(self, share: float) -> bool:
        """Whether the loss stands above its best by more than chance and more than a share of all progress."""
        return self.loss > limit_above(self._level, self._level["best"], share)

    @property
    def _is_sound(self) -> bool:
        """Whether a snapshot may be taken, as far as the losses show."""
        return not any(state.get("hold_snapshots") for state in self.states.values()) and not self._is_above_best(FAR)

    def _renew(self, improved: bool) -> None:
        """The model is another one: what detectors know of the old one is void.

        Args:
            improved: Whether that has lowered the loss already.
        """
        after = {d.name: d.renew(self.states[d.name], improved) for d in self.detectors}
        self.states = {**self.states, **after, LOSS_TREND: renewed(self.states[LOSS_TREND], improved)}
        self._states_at = {}

    def _collect(self, inputs: tuple[Any, ...]) -> GradStats:
        """The step's statistics; the loss trend follows them."""
        measured = self.source.collect(*inputs)
        loss = None if measured.get("multiple_optimizers") else measured["loss"]
        steps, activations = measured.get("total_steps"), measured["activation_stats"]
        trend = follow(self.states[LOSS_TREND], loss, measured["lr"], steps, activations)
        stats = GradStats(**{"step": self.steps, **measured, "restored": self._restored, "loss_trend": trend["trend"]})
        self.states = {**self.states, LOSS_TREND: trend}
        if not (stats.clean or stats.scaler_overflow) or self.actor.snapshot_is_due(stats.step):
            stats = self._with_nonfinite_state(stats)
        if self._any(self._asking, lambda d: d.wants_batch_stats(self.states[d.name], stats)):
            stats = replace(stats, batch_stats=self.source.batch_stats())
        return self._compare(self._recheck(self._with_first_nonfinite(stats)))

    def _with_nonfinite_state(self, stats: GradStats) -> GradStats:
        """The statistics with the layers whose weights or optimizer state are not finite: then nothing is good."""
        layers = self.source.nonfinite_state()
        return self._suspect(replace(stats, nonfinite_state=layers)) if layers else stats

    def _suspect(self, stats: GradStats, since: int | None = None) -> GradStats:
        """The statistics without trust in the weights, nor in snapshots after a step."""
        self.actor.suspect_weights(since)
        return replace(stats, weights_known_good=False)

    def _with_first_nonfinite(self, stats: GradStats) -> GradStats:
        """The statistics with the operation that made NaN or Inf: once an incident, if batch and weights are fine."""
        explained = stats.nonfinite_state or (stats.batch_stats is not None and not stats.batch_stats.is_finite)
        known = stats.clean or stats.scaler_overflow or explained or NonFinite.kind in self.incidents.incidents
        if known or NonFinite.kind not in self._kinds:
            return stats
        return replace(stats, first_nonfinite=self.source.first_nonfinite())

    def _recheck(self, stats: GradStats) -> GradStats:
        """The statistics with the last healthy batch measured again, where a detector asks for it."""
        known = stats.weights_known_good or stats.nonfinite_state
        if known or not self._any(self._rechecking, lambda d: d.wants_recheck(self.states[d.name], stats)):
            return stats
        again = replace(stats, recheck=self.source.recheck())
        if not self._any(self._rechecking, lambda d: d.confirms_weights(self.states[d.name], again)):
            return again
        self.actor.confirm_weights()
        return replace(again, weights_known_good=True)

    def _compare(self, stats: GradStats) -> GradStats:
        """The statistics with the last batches measured with the newest snapshot, where a detector asks for it."""
        if not self._any(self._rechecking, lambda d: d.wants_comparison(self.states[d.name], stats)):
            return stats
        stats = replace(stats, comparison=self.source.compare())
        if stats.comparison is None or stats.comparison[0] <= stats.comparison[1]:
            return stats
        return self._suspect(stats)

    def _wants_snapshot(self, stats: GradStats) -> bool:
        """Whether a detector wants to keep the weights from before this step."""
        return self._any(self._rechecking, lambda d: d.wants_snapshot(self.states[d.name], stats))

    def _any(self, detectors: Sequence[AbstractDetector], says_so: Callable[[AbstractDetector], bool]) -> bool:
        """Whether one of the detectors says so."""
        for detector in detectors:
            try:
                if says_so(detector):
                    return True
            except Exception as error:
                self._switch_off(detector, error)
        return False

    def _switch_off(self, detector: AbstractDetector, error: Exception) -> None:
        """A detector that has raised is not asked any more."""
        self.detectors = tuple(d for d in self.detectors if d is not detector)
        self._index_detectors()
        warn_switched_off("detector", detector, error)

    def _follow(self, stats: GradStats, outcome: StepOutcome, before: dict[str, State]) -> None:
        """What the step's outcome means for the detectors' states."""
        step = stats.step
        taken = stats.clean and not (outcome.cancelled or stats.multiple_optimizers)
        if taken and stats.loss is not None:
            self.states[LOSS_LEVEL] = follow_level(self._level, step, stats.loss, stats.total_steps)
        if outcome.cancelled:
            self._add_lost(1)
            self.states |= {name: before[name] for name in self._reset_on_cancel}
        if outcome.restored is not None:
            self._forget_since(outcome.restored, step)
        if outcome.model_changed:
            self._renew(improved=False)
        if outcome.objective_changed:
            self.states[LOSS_LEVEL] = ended(self._level)
        if outcome.snapshot:
            self._states_at[step] = dict(self.states)
            held = self.actor.held_snapshots
            self._states_at = {at: s for at, s in self._states_at.items() if held is None or at in held}
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
        if event is not None and event.kind != EXHAUSTED:  # the experiment has shown what was wrong
            found = Finding(event.cause, stats.step, (), event.loss, detail=f"found by an experiment: {event}")
            done = (event.remedies,) if event.kind == KEPT else ()
            findings, answered = (found, *findings), [(found, done), *answered]
            event = event if event.about else replace(event, about=event.cause)
        known = answered or self.incidents.incidents
        self.changed = []
        if known:
            self.changed = self.incidents.update(
                answered, event, self._has_ended_well, outcome.stopped_by, self._reference, self.loss,
                self._advise,
            )  # fmt: skip
        limit = max([self.states[name]["limit"] for name in self._limited], default=math.nan)
        return StepReport(stats=stats, findings=findings, outcome=outcome, limit=limit, optimizer=self.name)

    def _advise(self, finding: Finding) -> str:
        """What to change by hand about the first finding of an incident, and where more is said."""
        stats, detector = self._stats, next((d for d in self.detectors if d.kind == finding.kind), None)
        if stats is None or detector is None:
            return ""
        try:
            advice = detector.advise(finding, stats)
        except Exception as error:
            self._switch_off(detector, error)
            return ""
        if not stats.multiple_optimizers and not self.policy.rung(finding.kind, 0):
            advice += "".join(f"; {answer}" for answer in answers_of_presets(finding.kind) if advice)
        return advice + (f" (docs/symptoms/{detector.page}.md)" if advice and detector.page else "")

    def _is_over(self, kind: str) -> bool:
        """Whether a kind has not been reported for as many healthy steps as end its incident."""
        return kind not in self.ladders or self.ladders[kind].healthy_steps >= self.policy.steps_to_resolve

    def _has_ended_well(self, incident: Incident) -> bool:
        """Whether the symptom of an incident has ended, and the loss is back where it was before."""
        return self._is_over(incident.kind) and self._is_back(incident, since=incident.last_step + 1)

    def _is_back(self, incident: Incident, since: int = 0) -> bool:
        """Whether the loss from a step on is not above the one before an incident; True where that is not known."""
        limit = limit_above(self._level, incident.loss_before, BACK)
        return math.isnan(limit) or level_since(self._level, since) <= limit

    def put_right(self, at_end: bool = False) -> Restoration | None:
        """After a step, when the weights are about to leave the run: puts a snapshot back where they are ruined.

        Args:
            at_end: Whether the run ends here, so that a loss far above its best is a reason as well.
        """
        finding = self._find_ruin(at_end) if self.policy.uses_snapshots else None
        if finding is None:
            return None
        restoration = Restoration(finding, self.actor.put_back(best=at_end), at_end)
        self.take_in(restoration)
        return restoration

    def _find_ruin(self, at_end: bool) -> Finding | None:
        step = self.steps - 1
        if layers := self.source.nonfinite_state():
            return NonFiniteState.finding(step, layers)
        if not at_end:
            return None
        compared = self.source.compare(best=True)
        if compared is not None and compared[0] <= compared[1]:  # the objective has changed, not the weights
            return None
        now, best = self.loss, self._level["best"]
        if self._is_above_best(FAR):
            detail = f"median loss at the end is {now:.3g}, {best:.3g} at its best"
            return Finding(LossIncrease.kind, step, (), now, best, detail)
        if compared is None or not self._is_surely_worse(*compared):
            return None
        now, best, _ = compared
        detail = f"loss of the last batches is {now:.3g} with the final weights, {best:.3g} with those of a snapshot"
        return Finding(LossIncrease.kind, step, (), now, best, detail)

    def _is_surely_worse(self, now: float, then: float, error: float) -> bool:
        """Whether the last batches have a far higher loss than with a snapshot, and than the run has had at its best.

        No loss of the run shows what its very last steps have done to the weights.
        """
        limit = limit_above(self._level, max(then, self._level["best"]), NEAR_BEST)
        return now > limit and now - then > ERRORS * error

    def take_in(self, restoration: Restoration) -> None:
        """What a restoration means for incidents and detectors."""
        restored = restoration.step is not None
        answered = [(restoration.finding, (Rollback().name,) if restored else ())]
        self.changed = self.incidents.update(answered, before=self._reference, advise=self._advise)
        if restoration.step is not None:
            self._forget_since(restoration.step, self.steps)
            self._restored = True

    def _forget_since(self, step: int, now: int) -> None:
        """The detectors' states are those of a snapshot's step again."""
        lost = self._level["lost"]
        self._states_at = {at: states for at, states in self._states_at.items() if at <= step}
        self.states = dict(self._states_at.get(step, self.states))
        self._add_lost(lost - self._level["lost"] + now - step)

    def _add_lost(self, steps: int) -> None:
        """Counts steps that were skipped or rolled back."""
        self.states[LOSS_LEVEL] = {**self._level, "lost": self._level["lost"] + steps}

    def close_incidents(self) -> list[Incident]:
        """At the end of the run: the outcomes of the incidents that were still open."""
        loss = math.nan if self._is_lost(self.steps - FEWEST) else self.loss
        self.changed = self.incidents.close(self._outcome_at_end, loss)
        return self.changed

    def _outcome_at_end(self, incident: Incident) -> str:
        """An incident whose symptom lasts is open; another one is resolved where the loss is at its best."""
        if not self._is_over(incident.kind):
            return OPEN
        is_degraded = standing_of(self._level, self.steps).is_degraded or self._is_lost(incident.last_step + 1)
        return RESOLVED if self._is_back(incident) and not is_degraded else DEGRADED

    def _is_lost(self, since: int) -> bool:
        """Whether steps were left from one on, and none of them had a finite loss."""
        level = self._level
        followed = bool(level["errors"]) and self.steps - since >= FEWEST
        return followed and not any(step >= since for step, _ in level["recent"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, as plain dicts, lists, numbers, strings and tensors."""
        return {
            "steps": self.steps,
            "detectors": to_checkpoint(self.states),
            "ladders": to_checkpoint(self.ladders),
            "policy": {kind: repr(self.policy.rungs.get(kind)) for kind in self.ladders},
            "incidents": self.incidents.state_dict(),
            "restored": self._restored,
            "looks": [self._pause, self._next_look],
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
            "looks": self._load_looks,
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
        self.ladders = {kind: LadderState(int(r), int(h), bool(excused)) for kind, (r, h, excused) in ladders.items()}

    def _load_looks(self, looks: Any) -> None:
        self._pause, self._next_look = map(int, looks)

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
    """Warns that a detector is reset because its state in the checkpoint has not got what it needs."""
    missing = ", ".join(sorted(wanted.keys() - found.keys()))
    warnings.warn(
        f"GradGuard resets the detector {detector!r}: its state in the checkpoint has no {missing}.",
        stacklevel=2,
    )


def is_far_above(comparison: Comparison | None) -> bool:
    """Whether the loss with the present weights is at least twice that with the weights of a snapshot."""
    return comparison is not None and comparison[1] < comparison[0] - abs(comparison[0]) / 2


def answers_of_presets(kind: str) -> list[str]:
    """What the mildest policy does first about a kind, for a run whose own does nothing; empty when none does anything.

    Example:
        >>> answers_of_presets("nonfinite"), answers_of_presets("vanishing"), answers_of_presets("unused")
        (['GradGuard("protect") answers with SkipStep'], ['GradGuard("repair") tries remedies beside the run'], [])
    """
    for policy in (PROTECT, REPAIR):
        if rung := policy.rung(kind, 0):
            searches = any(remedy.uses_search for remedy in rung)
            does = "tries remedies beside the run" if searches else f"answers with {', '.join(r.name for r in rung)}"
            return [f'GradGuard("{policy.name}") {does}']
    return []


def leads_back(rung: Rung) -> bool:
    """Whether a remedy of the rung goes back to earlier weights."""
    return any(remedy.uses_snapshots for remedy in rung)
