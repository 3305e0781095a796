"""ACT: settings tried beside the run on batches that it has seen, each from the initial weights, and put back.

An *arm* replays the first steps of the run under one setting: the same batches in the same order, with the rates that
the schedule gave. The run itself is the control. Nothing that an arm does reaches the run, so looking costs time only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import TypeVar

from lightning_gradguard.findings import Action
from lightning_gradguard.step.model_changes import CodeChange, changes_of
from lightning_gradguard.step.rerun import KeptStep, Rerun, set_lrs
from lightning_gradguard.step.saved_state import SavedState
from lightning_gradguard.tensors.copies import optimizer_params

T = TypeVar("T")

#: Arms that are left after one and after two thirds of the steps. Chosen.
HALVINGS = (8, 3)
#: Bytes of host memory for the states of the arms that are left; fewer are left where they need more. Chosen.
MOST_BYTES = 4 * 2**30
#: Further passes over the kept steps, for the control and the arms that are left. Chosen.
FURTHER_PASSES = 3
#: Standard errors by which an arm must be ahead of the control: the one-sided 2 % point for 32 arms.
SURELY = 3.2
#: An arm that has this share of the best arm's lead is as good; the simplest of them is taken. Chosen.
AS_GOOD = 0.9
#: An arm whose loss is more than so many times the lowest one is not as good, however far an untrained model is off (a
#: regression on targets far from 0). Chosen.
AS_LOW = 10.0
#: Kept steps on which an arm that changes the model is measured before its first step. Chosen.
UNTRAINED = 8


@dataclass(frozen=True)
class Candidate:
    """A set of remedies that may be tried.

    Args:
        remedies: The remedies, by value.
        name: Their display names.
        cause: What was wrong with the run if they help: the kind of a finding.
        apply: Applies them and returns what they did; empty where one of them has nothing to do, so that the set does
            not apply.
        only_model: Whether they leave the optimizer as it is, so that their loss before the first step tells where an
            untrained model of this run can stand.
        only_corrects: Whether they help only where something is wrong.
        is_called_for: Whether what they repair is so far off that it is a reason to change the run.
    """

    remedies: Hashable
    name: str
    cause: str
    apply: Callable[[], Sequence[Action]]
    only_model: bool = False
    only_corrects: bool = False
    is_called_for: Callable[[], bool] = lambda: False


@dataclass(eq=False)
class Arm:
    """One setting on trial, or the control.

    Args:
        candidate: The setting; None for the control.
        summary: What its remedies did.
        end: Where it stands; None before its first step, and when it is out of the race.
        losses: Of each step in its latest pass.
        history: Of each step in all passes.
        changes: What its remedies have changed, as code.
    """

    candidate: Candidate | None
    summary: str = ""
    end: SavedState | None = None
    losses: list[float] = field(default_factory=list)
    history: list[float] = field(default_factory=list)
    changes: tuple[CodeChange, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether one of its judged steps could not be taken."""
        return not all(map(math.isfinite, last_third(self.losses) or [math.inf]))

    @property
    def loss(self) -> float:
        """Mean loss of the last third of its latest pass; inf when it failed."""
        return math.inf if self.failed else fmean(last_third(self.losses))


@dataclass(frozen=True)
class Verdict:
    """What an experiment has shown.

    Args:
        untrained: Mean loss of an untrained model on the first kept steps: what all gains are a share of.
        control: The run itself, or the run continued over the same steps.
        arms: Those that applied, in the order of the candidates.
        samples: In the kept steps.
        far_off: Candidates that repair what is further off than in any published recipe.
    """

    untrained: float
    control: Arm
    arms: Sequence[Arm]
    samples: int = 0
    far_off: Sequence[Candidate] = ()

    @property
    def best(self) -> Arm | None:
        """The first of the arms that are about as good as the best one; None when all failed.

        Beside a run that has diverged every arm is far ahead: there they are compared by their lead over an untrained
        model.
        """
        left = [arm for arm in self.arms if not arm.failed]
        base, lowest = min(self.control.loss, self.untrained), min((arm.loss for arm in left), default=math.nan)
        limit = base - AS_GOOD * (base - lowest)
        if lowest > 0:
            limit = min(limit, AS_LOW * lowest)
        return next((arm for arm in left if arm.loss <= limit), None)

    def gain(self, arm: Arm) -> float:
        """How far an arm's loss is below the control's, as a share of the untrained loss; inf beside one that failed.

        Where the control has failed, it is how far the arm's loss is below the untrained one.
        """
        control = self.untrained if self.control.failed else self.control.loss
        return (control - arm.loss) / max(abs(self.untrained), 1e-12)

    def is_certain(self, arm: Arm) -> bool:
        """Whether an arm is ahead beyond chance: paired differences over the last third."""
        if self.control.failed:
            return True
        pairs = zip(last_third(self.control.losses), last_third(arm.losses), strict=True)
        differences = [a - b for a, b in pairs]
        return fmean(differences) > SURELY * stdev(differences) / math.sqrt(len(differences))

    def progress(self, loss: float) -> float:
        """How far a loss is below the untrained one, as a share of it."""
        return (self.untrained - loss) / max(abs(self.untrained), 1e-12)


def last_third(losses: Sequence[T]) -> list[T]:
    """The losses, or steps, on which arms are judged.

    Example:
        >>> last_third([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
        [2.0, 1.0]
    """
    return list(losses[-max(2, len(losses) // 3) :])


class Experiment:
    """Arms over the kept first steps of a run.

    Args:
        rerun: Takes the steps.
        steps: The kept steps, in order.
        save: Saves the state of model and optimizer as it is now.
        initial: The state before the first step.
        ready: Called when the gradients of a step are there.
        changed: Called whenever modules may have been exchanged.

    Attributes:
        tried: Every arm that applied.
    """

    def __init__(
        self,
        rerun: Rerun,
        steps: Sequence[KeptStep],
        save: Callable[[], SavedState],
        initial: SavedState,
        ready: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self.rerun, self.steps, self.save, self.initial = rerun, steps, save, initial
        self.ready, self.changed = ready, changed
        self.tried: list[Arm] = []

    @property
    def samples(self) -> int:
        """In the kept steps."""
        return sum(step.samples for step in self.steps)

    @contextmanager
    def beside_the_run(self) -> Iterator[None]:
        """Whatever arms do within it is put back after it, bit for bit."""
        optimizer = self.rerun.optimizer
        now, params = self.save(), optimizer_params(optimizer)
        gradients = [p.grad for p in params]
        lrs = [copy.deepcopy(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        with self.rerun.without_trace():
            try:
                yield
            finally:
                now.restore()
                self.changed()
                set_lrs(optimizer, lrs)
                for p, gradient in zip(params, gradients, strict=True):
                    p.grad = gradient

    def measure_untrained(self, candidates: Sequence[Candidate]) -> float:
        """Mean loss of an untrained model: the lowest that the initial weights, or those of a candidate, have.

        Initial weights whose outputs are far too large make a bad yardstick: a run that does nothing but unlearn them
        seems to make progress.
        """
        self.initial.restore()
        self.changed()
        losses = [fmean(self.rerun.losses(self.steps[:UNTRAINED]))]
        for candidate in candidates:
            if candidate.only_model and self._begin(candidate) is not None:
                losses.append(fmean(self.rerun.losses(self.steps[:UNTRAINED])))
        return min(losses)

    def called_for(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that repair what is far off at the initial weights."""
        self.initial.restore()
        self.changed()
        return [candidate for candidate in candidates if candidate.is_called_for()]

    def run(self, candidates: Sequence[Candidate], verdict: Verdict) -> Verdict:
        """One pass over the steps for each candidate; the worst are left out after each third.

        Args:
            candidates: What to try, the simplest first.
            verdict: Without arms.
        """
        third, arms = len(self.steps) // 3, list[Arm]()
        for candidate in candidates:
            if (arm := self._begin(candidate)) is not None:
                self.tried.append(arm)
                self._continue(arm, self.steps[:third])
                arms = leaders([*arms, arm], HALVINGS[0])
        for part in (self.steps[third : 2 * third], self.steps[2 * third :]):
            for arm in arms:
                self._continue(arm, part)
            arms = leaders(arms, HALVINGS[1])
        left = sorted(arms, key=lambda arm: candidates.index(arm.candidate))
        return replace(verdict, arms=left)

    def begin(self, candidate: Candidate) -> SavedState:
        """The initial weights with a candidate in force."""
        self._begin(candidate)
        return self.save()

    def go_on(self, verdict: Verdict) -> Verdict:
        """Further passes over the first two thirds of the steps, for the arms that are left and for the control.

        The last third is only measured after them: every arm has taken these steps once, as the run has, so that none
        is ahead because it knows them by heart.
        """
        third = len(last_third(self.steps))
        for arm in (verdict.control, *verdict.arms):
            for _ in range(FURTHER_PASSES):
                if not arm.failed:
                    arm.losses = []
                    self._continue(arm, self.steps[:-third])
            if not arm.failed:
                self._resume(arm)
                measured = self.rerun.losses(self.steps[-third:])
                arm.losses, arm.history = [*arm.losses, *measured], [*arm.history, *measured]
        return verdict

    def _resume(self, arm: Arm) -> None:
        """Puts the run where an arm stands; one that has just begun is in force already."""
        if arm.end is not None:
            arm.end.restore()
            self.changed()

    def _begin(self, candidate: Candidate) -> Arm | None:
        """The initial weights with a candidate in force; None where it does not apply or raises."""
        self.initial.restore()
        self.changed()
        try:
            actions = candidate.apply()
        except Exception:
            actions = ()
        self.rerun.equalize()
        self.changed()
        if not actions:
            return None
        changes = tuple(changes_of(self.rerun.module))
        return Arm(candidate, ", ".join(action.summary for action in actions), changes=changes)

    def _continue(self, arm: Arm, steps: Sequence[KeptStep]) -> None:
        """Takes further steps from where an arm stands."""
        self._resume(arm)
        for step in steps:
            loss = self.rerun.take_step(step, self.ready)
            arm.losses.append(loss)
            arm.history.append(loss)
            if arm.failed:
                return
        arm.end = self.save()


def most_steps(steps: int, candidates: int) -> int:
    """How many steps an experiment over so many kept ones takes at most, its further passes included.

    Example:
        >>> most_steps(30, 40)  # 10 for each of 40, then 10 for each of 8 and 3, then 3 passes over 20 for each of 4
        750
    """
    third, judged = steps // 3, max(2, steps // 3)
    once = third * (candidates + HALVINGS[0]) + (steps - 2 * third) * HALVINGS[1]
    return once + (1 + HALVINGS[1]) * FURTHER_PASSES * (steps - judged)


def leaders(arms: Sequence[Arm], most: int) -> list[Arm]:
    """The arms with the lowest losses, as many as are wanted and memory holds; the states of the others are let go."""
    size = max((arm.end.nbytes for arm in arms if arm.end is not None), default=1)
    alive = sorted((arm for arm in arms if not arm.failed), key=lambda arm: arm.loss)
    left = alive[: max(1, min(most, MOST_BYTES // max(size, 1)))]
    for arm in arms:
        if arm not in left:
            arm.end = None
    return left
