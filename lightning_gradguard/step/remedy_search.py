"""ACT: remedies tried one after another on the running model; the best is kept, what did not help is undone.

A *trial* is a number of ordinary optimizer steps with one set of remedies in force, from the same start as the others.
Its steps are the run's own: they count, nothing is replayed. So a search is short, and it ends early when a trial is
clearly better than anything before it.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.findings import EXHAUSTED, KEPT, STARTED, Action, Finding, TrialEvent
from lightning_gradguard.step.adam_update import AdamUpdate
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.saved_state import SavedState
from lightning_gradguard.step.trial import TrialRun, better, is_blocked, level_of

#: Shortest and longest trial in steps. Chosen.
SHORTEST, LONGEST = 8, 1000


@dataclass(frozen=True)
class Candidate:
    """A set of remedies that may be tried.

    Args:
        remedies: The remedies, by value: the same set is not tried twice.
        name: Their display names.
        cause: What was wrong with the run if they help: the kind of a finding.
        apply: One call for each remedy; one that returns None does not apply here, so the set is passed over.
    """

    remedies: Hashable
    name: str
    cause: str
    apply: tuple[Callable[[], Action | None], ...]


class RemedySearch:
    """Tries sets of remedies on one optimizer's run.

    Args:
        module: The module in training.
        optimizer: Its optimizer.
        lr_factor: Its learning-rate factor.
        changed: Called whenever modules may have been exchanged.
    """

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, lr_factor: LRFactor, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.module, self.optimizer, self.lr_factor, self.changed = module, optimizer, lr_factor, changed
        self.adam = AdamUpdate(optimizer)
        self.initial: SavedState | None = None
        self.finding: Finding | None = None  # what the running search is about
        self.kept: TrialRun | None = None  # the latest one that helped
        self.tried: set[Hashable] = set()
        self._tried_before: frozenset[str] = frozenset()  # before a resume, as text
        self._early: list[float] = []  # losses of the first steps
        self._recent: deque[float] = deque(maxlen=LONGEST)  # losses before the search
        self._advice, self._clearly, self._window, self._left = "", 0.7, 0, math.inf
        self._waiting: list[Candidate] = []
        self._origin: SavedState | None = None
        self._level = self._error = math.inf  # mean loss before the search, and its standard error
        self._blocked = False  # whether the signal was blocked before the search
        self._trials: list[TrialRun] = []
        self._losses: list[float] = []  # of the running trial
        self._failures = 0  # steps of the running trial without a finite loss and gradient
        self._restarted = False
        self._activation_stats: ActivationStats | None = None

    @property
    def initial_loss(self) -> float:
        """Where the loss began: the median of the first steps; NaN before any."""
        return float(np.median(self._early)) if self._early else math.nan

    @property
    def active(self) -> bool:
        """Whether a trial is running."""
        return self.finding is not None

    @property
    def wants_activation_stats(self) -> bool:
        """Whether the next step's activation statistics are needed: it is the last of a trial."""
        return self.active and len(self._losses) + self._failures + 1 >= self._window

    def remember_initial(self) -> None:
        """Before the very first step: keeps the state that `restart` goes back to."""
        self.initial = self._save()

    def observe(self, loss: float | None) -> None:
        """The loss of one more step outside a search."""
        if loss is not None and math.isfinite(loss):
            self._early = [*self._early, loss] if len(self._early) < SHORTEST else self._early
            self._recent.append(loss)

    def begin(
        self,
        finding: Finding,
        candidates: Sequence[Candidate],
        window: int,
        activation_stats: ActivationStats | None = None,
        *,
        advice: str = "",
        clearly: float = 0.7,
        left: float = math.inf,
    ) -> TrialEvent | None:
        """Starts a search; None when no candidate applies.

        Args:
            finding: What it is about.
            candidates: What to try, in order; what was tried before is left out.
            window: Steps of a trial.
            activation_stats: The latest ones.
            advice: What is left for the user to do when nothing helps.
            clearly: A trial whose loss is below this share of anything before it ends the search.
            left: Steps that the run has left: no trial begins that would leave it less than another such time.
        """
        self.finding, self._window, self._trials = finding, window, []
        self._advice, self._clearly, self._left = advice, clearly, left
        self._blocked = is_blocked(activation_stats)
        self._waiting = [candidate for candidate in candidates if not self._was_tried(candidate.remedies)]
        self._origin = self._save()
        recent = list(self._recent)[-window:]
        self._level, self._error = level_of(recent) if len(recent) >= 3 else (math.inf, math.inf)
        return self._next()

    def _was_tried(self, remedies: Hashable) -> bool:
        return remedies in self.tried or repr(remedies) in self._tried_before

    def _save(self) -> SavedState:
        return SavedState(self.module, self.optimizer, self.lr_factor, self.adam)

    def restart(self) -> bool:
        """Puts the initial weights back, with an empty optimizer; False where they are not kept."""
        if self.initial is None:
            return False
        self.initial.restore()
        self._restarted = True
        return True

    def _next(self) -> TrialEvent | None:
        """Puts the next candidate into force, from the same start; ends the search when there is none."""
        while self._waiting and self._left >= 2 * self._window:
            candidate = self._waiting.pop(0)
            assert self._origin is not None
            self._origin.restore()
            self._restarted = False
            actions = list(applied(candidate))
            if len(actions) < len(candidate.apply):
                continue
            self._losses, self._failures, self._activation_stats = [], 0, None
            summary = ", ".join(action.summary for action in actions)
            begin = self._save() if self._restarted else None
            self._trials.append(TrialRun(candidate.name, summary, candidate.cause, begin=begin))
            self.tried.add(candidate.remedies)
            self.changed()
            return TrialEvent(STARTED, self._about, candidate.name, summary, candidate.cause)
        return self._finish()

    @property
    def _about(self) -> str:
        return self.finding.kind if self.finding is not None else ""

    def follow(
        self, loss: float | None, clean: bool, activation_stats: ActivationStats | None, cancel: Callable[[], None]
    ) -> TrialEvent | None:
        """One step of the running trial; what came of it, if anything.

        Args:
            loss: The step's loss.
            clean: Whether loss and gradients are finite.
            activation_stats: Those of the step's batch, if they were sampled.
            cancel: Makes the step a no-op; called before anything is changed.
        """
        self._activation_stats = activation_stats if activation_stats is not None else self._activation_stats
        self._left -= 1
        if clean and loss is not None:
            self._losses.append(loss)
        else:
            self._failures += 1
            cancel()
        failed = self._failed()
        if not failed and len(self._losses) + self._failures < self._window:
            return None
        cancel()
        trial = self._trials[-1]
        if not failed and self._losses:
            trial.level, trial.error = level_of(self._losses[len(self._losses) // 2 :])
            trial.blocked, trial.activation_stats = is_blocked(self._activation_stats), self._activation_stats
            best = next((other for other in self._trials if other.end is not None), None)
            if best is None or better(trial, best):
                for other in self._trials[:-1]:
                    other.begin = other.end = None
                trial.end = self._save()
        if trial.end is None:
            trial.begin = None
        return self._finish() if self._is_clear(trial) else self._next()

    def _failed(self) -> bool:
        """Whether the trial has gone wrong before its time: NaN again and again, or far above where the run was."""
        if self._failures >= 3 and self._failures > len(self._losses) / 4:
            return True
        marks = [abs(x) for x in (self._level, self.initial_loss) if math.isfinite(x)]
        enough = len(self._losses) >= max(2 * SHORTEST, self._window // 3)
        if not enough or not marks:
            return False
        half = len(self._losses) // 2
        now, then = level_of(self._losses[half:])[0], level_of(self._losses[:half])[0]
        return now > 3 * max(marks) and now >= then

    def _is_clear(self, trial: TrialRun) -> bool:
        """Whether the trial is so much better than the run ever was that no other is needed."""
        starts = [*self._early[:1], *self._losses[:1]]  # two samples of where the first weights stand
        marks = [x for x in (self._level, float(np.mean(starts or [math.inf]))) if math.isfinite(x)]
        if trial.blocked or not marks:
            return False
        gain = min(marks) - trial.level
        return gain > (1 - self._clearly) * abs(min(marks)) and gain > 4 * trial.error

    def _finish(self) -> TrialEvent | None:
        """Keeps the best trial if it beats the start, and puts the start back if none does."""
        origin, about = self._origin, self._about
        assert origin is not None
        self.finding, self._origin = None, None
        best = next((t for t in self._trials if t.end is not None), None)
        tried, self._trials = self._trials, []
        self._recent.clear()
        if best is not None and best.end is not None and self._beats(best):
            best.end.restore()
            self.initial = best.begin or self.initial  # a later search begins with what this one has changed
            best.begin = best.end = None
            self.kept = best
            improved = best.level < self._level - 0.1 * abs(self._level) or not math.isfinite(self._level)
            self.changed()
            return TrialEvent(
                KEPT, about, best.name, best.summary, best.cause, best.level, self._level, improved=improved
            )
        origin.restore()
        self.changed()
        if not tried:
            return None
        summary = "; ".join(trial.summary for trial in tried)
        return TrialEvent(EXHAUSTED, about, summary=summary, trials=len(tried), advice=self._advice)

    def _beats(self, trial: TrialRun) -> bool:
        """Whether a trial is worth keeping: a lower loss beyond chance, or a cure that the loss does not show yet."""
        if not math.isfinite(self._level):
            return True
        exploded = self._error > 0.5 * abs(self._level)  # no scatter to be careful about
        chance = 2 * (trial.error if exploded else math.hypot(trial.error, self._error))
        cured = self._blocked and not trial.blocked
        return trial.level < self._level + (chance if cured else -chance)

    def state_dict(self) -> dict[str, Any]:
        """What outlives a checkpoint: a running search does not, its trial goes on as it is."""
        tried = [*self._tried_before, *map(repr, self.tried)]
        trial = self._trials[-1].name if self.active and self._trials else ""
        recent = list(self._recent)
        return {"adam": self.adam.state_dict(), "early": self._early, "recent": recent, "tried": tried, "trial": trial}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.adam.load_state_dict(state["adam"])
        if "early" not in state:  # of a run that could not search
            return
        self._early, self._tried_before = list(state["early"]), frozenset(state["tried"])
        self._recent.extend(state["recent"])
        if state["trial"]:
            warnings.warn(
                f"The checkpoint was saved during a trial of {state['trial']}. The trial is not judged any more: what "
                "it has changed stays.",
                stacklevel=2,
            )


def applied(candidate: Candidate) -> Iterator[Action]:
    """Applies a candidate's remedies in order, up to the first that does not apply."""
    for apply in candidate.apply:
        action = apply()
        if action is None:
            return
        yield action
