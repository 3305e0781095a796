"""ACT: when a run is examined by an experiment, and what the verdict means for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from lightning_gradguard.findings import EXHAUSTED, KEPT, PROPOSED, UNDONE, Action, Finding, Trial, TrialEvent
from lightning_gradguard.step.experiment import Arm, Candidate, Experiment, Verdict, last_third
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.rerun import Indexed, KeptStep, Rerun, tensors_of
from lightning_gradguard.step.saved_state import SavedState

#: Fewest and most steps that are kept, and the share of the run for those between. Chosen.
FEWEST, MOST, SHARE = 24, 150, 0.25
#: Bytes of the kept batches. Chosen.
MOST_BYTES = 2**30
#: A control that has come less than this share of the untrained loss down is slow, which is a reason to change it. At a
#: quarter of their steps all but one of 70 healthy recipes had come further (`python benchmarks/harmless.py`), a small
#: language model at 30 times its rate had not (0.35; `python benchmarks/lm`).
SLOW = 0.4
#: With fewer samples in the kept steps a run cannot have come far, whatever its settings (batches of one or two): only
#: one that has not even come this share down is slow. Chosen.
FEW, NOWHERE = 500, 0.1
#: An arm must be ahead of the control by the first share of the untrained loss, or, after a finding, by the second of
#: the control's. Tuned likewise.
GAIN, RELATIVE_GAIN = 0.15, 0.2
#: The same share of the control's where an arm repairs what is further off than in any published recipe. Chosen.
FAR_OFF_GAIN = 0.1
#: Share of these gains that an arm must have after one pass, so that further ones are worth their time. Chosen.
PROMISING = 1 / 3
#: Steps until it is asked again whether all processes have kept enough. Chosen.
WAIT = 8
#: Kind of what is wrong with a slow run that is helped by remedies without a cause, such as another optimizer.
NAMELESS = "no_progress"
#: Losses whose median tells where the run began. Chosen.
EARLY = 8


@dataclass(frozen=True)
class Question:
    """What an experiment is asked.

    Args:
        finding: What is wrong with the run; without a kind in the experiment that every run gets.
        trials: Sets of remedies that may help, the simplest first.
        advice: What is left for the user to do when none does.
    """

    finding: Finding
    trials: Sequence[tuple[Any, ...]]
    advice: str = ""


class Checkup:
    """Keeps the first steps of a run, and examines the run by them when it is asked, and at a quarter of its steps.

    The run is changed only where three things hold: there is a reason (a finding, little progress, or something that
    an arm repairs and that is further off than in any published recipe), an arm is clearly ahead of the run over its
    own first steps, and it still is after further passes over them, in which the run goes on as well. Nothing is
    examined in the second half of a run: what begins again there has too few steps left. Every experiment doubles the
    wait for the next one.

    Args:
        save: Saves the state of model and optimizer as it is now.
        apply: Applies a set of remedies to the run as it is; what they did, empty if one has nothing to do.
        is_called_for: Whether what a set of remedies repairs is so far off that it is a reason to change the run.
        changed: Called whenever modules may have been exchanged.
        ready: Called when the gradients of a step in an experiment are there.
        aside: Within it the optimizer's steps are not the run's.
        trials: What is tried at a quarter of the run.
        total_steps: Optimizer steps that the run is meant to take; None when it has no end.
        rerun: Takes steps again.
        lr_factor: The optimizer's learning-rate factor.
        keeps: Whether what is clearly better takes the place of the run; otherwise it is only told.
    """

    def __init__(
        self,
        *,
        save: Callable[[], SavedState],
        apply: Callable[[Sequence[Any], Finding], Sequence[Action]],
        is_called_for: Callable[[Sequence[Any]], bool],
        changed: Callable[[], None],
        ready: Callable[[], None],
        aside: Callable[[], AbstractContextManager[None]],
        trials: Sequence[tuple[Any, ...]],
        total_steps: int | None,
        rerun: Rerun,
        lr_factor: LRFactor,
        keeps: bool = True,
    ) -> None:
        self._save, self._apply, self._is_called_for = save, apply, is_called_for
        self._changed, self._ready, self._aside = changed, ready, aside
        self._trials, self.rerun, self._lr_factor, self._keeps = trials, rerun, lr_factor, keeps
        self.last_step = math.inf if total_steps is None else total_steps // 2
        self.quarter: float = MOST if total_steps is None else round(SHARE * total_steps)
        self.initial: SavedState | None = None
        self.kept: list[KeptStep] = []
        self.question: Question | None = None
        self.event: TrialEvent | None = None  # of the last experiment, until the next step has taken it in
        self.verdict: Verdict | None = None  # of the last experiment
        self.tried: list[Arm] = []  # in the last experiment
        self.next_possible: float = 0
        self._early: list[float] = []
        self._number = self._bytes = 0
        self._agree_at = FEWEST  # before this step not enough are kept
        self._over = False  # whether the experiment at a quarter of the run is over

    @property
    def initial_loss(self) -> float:
        """Where the loss began: the median of the first steps; NaN before any."""
        return median(self._early) if self._early else math.nan

    @property
    def most(self) -> int:
        """How many steps are kept."""
        return int(min(max(self.quarter, FEWEST), MOST))

    def remember_initial(self) -> None:
        """Before the very first step: keeps the state that every arm begins with."""
        self.initial = self._save()

    def keep(self, batches: Sequence[Indexed], loss: float | None) -> None:
        """One more step of the run. A batch that is not finite itself is not kept: no setting can cure it.

        Args:
            batches: Its batches with their indices in the epoch.
            loss: Its loss.
        """
        self._number += 1
        finite = loss is not None and math.isfinite(loss)
        if finite and len(self._early) < EARLY:
            self._early.append(float(loss))  # type: ignore[arg-type]
        if self.initial is None or len(self.kept) >= self.most or not batches:
            return
        if not finite and not all(is_finite(batch) for batch, _ in batches):
            return
        lrs = tuple(self._lr_factor.user_lrs())
        step = KeptStep(tuple(batches), lrs, float(loss) if finite else math.inf, self._number)  # type: ignore[arg-type]
        if self._bytes + step.nbytes <= MOST_BYTES:
            self.kept.append(step)
            self._bytes += step.nbytes

    def ask(self, question: Question) -> None:
        """Asks for an experiment as soon as one is possible."""
        self.question = question

    def between_steps(self, steps: int, best: float) -> None:
        """Makes an experiment, if one is due; `event` says what has come of it.

        Args:
            steps: Optimizer steps so far.
            best: The lowest that the loss has been; NaN where that is not known.
        """
        if self.initial is None:
            return
        if steps > self.last_step:
            self.forget()
            return
        scheduled = not self._over and steps >= max(self.quarter, FEWEST)
        asked = self.question is not None and steps >= self.next_possible
        if steps < self._agree_at or not (scheduled or asked):
            return
        self.kept = self.rerun.in_all(self.kept)
        if len(self.kept) < FEWEST:
            self._agree_at = steps + WAIT
            return
        self._over = self._over or scheduled
        self.next_possible = 2 * steps
        question = self.question or Question(Finding("", steps - 1), self._trials)
        self.question = None
        self.event = self.examine(question, best)

    def forget(self) -> None:
        """Lets everything go that was kept for experiments."""
        self.initial, self.question, self.kept = None, None, []

    def candidates(self, question: Question) -> list[Candidate]:
        """A question's sets of remedies."""
        return [
            Candidate(
                trial,
                " + ".join(remedy.name for remedy in trial),
                next((r.cause for r in reversed(trial) if r.cause), question.finding.kind or NAMELESS),
                partial(self._apply, trial, question.finding),
                all(remedy.only_model for remedy in trial),
                all(remedy.only_corrects for remedy in trial),
                partial(self._is_called_for, trial),
            )
            for trial in question.trials
        ]

    def examine(self, question: Question, best: float = math.nan, keep: bool = True) -> TrialEvent | None:
        """Tries a question's remedies beside the run, and puts the best into force if it is clearly better.

        Args:
            question: What is asked.
            best: The lowest that the loss has been; NaN where that is not known.
            keep: False for an experiment that is made whatever there is reason for, and changes nothing.
        """
        assert self.initial is not None
        experiment = Experiment(self.rerun, self.kept, self._save, self.initial, self._ready, self._changed)
        candidates, winner, begin = self.candidates(question), None, None
        with self._aside(), experiment.beside_the_run():
            control = self._control(experiment)
            untrained = experiment.measure_untrained(candidates)
            far_off = experiment.called_for(candidates)
            verdict = Verdict(untrained, control, (), experiment.samples, far_off)
            if keep and not has_reason(verdict, question):
                candidates = far_off
            if candidates:
                verdict = experiment.run(candidates, verdict)
            self.verdict = verdict
            if not keep or is_ahead(verdict, question, PROMISING):
                self.verdict = verdict = experiment.go_on(verdict)
                winner = verdict.best if keep and is_clear(verdict, question, best) else None
            if winner is not None:
                assert winner.candidate is not None
                begin = experiment.begin(winner.candidate)
        if winner is not None and winner.end is not None and self._keeps:
            self.initial = begin  # a later experiment begins with what this one has changed
            winner.end.restore()
            self._changed()
        self.tried = experiment.tried
        for arm in (control, *experiment.tried):
            arm.end = None  # frees their states
        event = event_of(question, experiment.tried, control, winner, self._keeps)
        return event if winner is not None or question.finding.kind else None

    def _control(self, experiment: Experiment) -> Arm:
        """The run itself: as it went over the kept steps, or as its weights do now, whichever is lower.

        It goes on at its own learning rate, without what has been reduced for a time.
        """
        then, now = [step.loss for step in self.kept], self.rerun.losses(last_third(self.kept))
        control, here = Arm(None, losses=then, history=then), Arm(None, losses=now)
        if control.failed or here.loss < control.loss:
            control.losses = [*then[: -len(now)], *now]
        self._lr_factor.end_reduction()
        control.end = self._save()
        return control

    def state_dict(self) -> dict[str, Any]:
        """What outlives a checkpoint. The initial weights and the kept steps do not: a resumed run is not examined."""
        return {"early": self._early, "event": asdict(self.event) if self.event is not None else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self._early = list(state["early"])
        self.event = TrialEvent.from_dict(state["event"]) if state["event"] is not None else None


def relative_gain(verdict: Verdict, question: Question) -> float:
    """Share of the control's loss by which the best arm has to be ahead; inf where it is not known what is wrong."""
    if question.finding.kind:
        return RELATIVE_GAIN
    repairs = verdict.best is not None and verdict.best.candidate in verdict.far_off
    return FAR_OFF_GAIN if repairs else math.inf


def has_reason(verdict: Verdict, question: Question) -> bool:
    """Whether there is a reason to change the run, beside an arm that is better: a named one, or little progress."""
    if relative_gain(verdict, question) < math.inf or verdict.control.failed:
        return True
    return verdict.progress(verdict.control.loss) < (SLOW if verdict.samples >= FEW else NOWHERE)


def is_ahead(verdict: Verdict, question: Question, share: float = 1.0) -> bool:
    """Whether the best arm is far enough ahead of the control, or by a share of that."""
    arm, control = verdict.best, verdict.control
    if arm is None:
        return False
    by = share * relative_gain(verdict, question) * abs(control.loss)
    return (not control.failed and control.loss - arm.loss >= by) or verdict.gain(arm) >= share * GAIN


def is_clear(verdict: Verdict, question: Question, best: float) -> bool:
    """Whether the best arm is far enough ahead, beyond chance, and below all that the run has reached."""
    arm = verdict.best
    if arm is None or not is_ahead(verdict, question) or not verdict.is_certain(arm):
        return False
    if not (math.isnan(best) or arm.loss < best):
        return False
    # The run has gone on and may be slow no more; a win of what helps no healthy run remains a reason.
    return has_reason(verdict, question) or (arm.candidate is not None and arm.candidate.only_corrects)


def event_of(
    question: Question, tried: Sequence[Arm], control: Arm, winner: Arm | None, keeps: bool = True
) -> TrialEvent:
    """The outcome of an experiment, with its table of arms."""
    done = KEPT if keeps else PROPOSED
    trials = tuple(
        Trial(arm.candidate.name, done if arm is winner else UNDONE, arm.loss) for arm in tried if arm.candidate
    )
    about, before = question.finding.kind, control.loss
    if winner is None or winner.candidate is None:
        return TrialEvent(EXHAUSTED, about, before=before, trials=trials, advice=question.advice)
    chosen = winner.candidate
    advice = "" if keeps else "; ".join(f"write {change.code!r} in `{change.method}`" for change in winner.changes)
    return TrialEvent(done, about, chosen.name, winner.summary, chosen.cause, winner.loss, before, trials, advice)


def is_finite(batch: Any) -> bool:
    """Whether every number in a batch is finite."""
    return all(bool(torch.isfinite(t).all()) for t in tensors_of(batch) if t.is_floating_point())
