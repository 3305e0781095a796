"""ACT: remedies tried one after another on the running model; the best is kept, what did not help is undone.

A *trial* is a number of ordinary optimizer steps with one set of remedies in force, from the same start as the others.
Its steps are the run's own: they count, nothing is replayed. So a course is short, and it ends early when a trial is
clearly better than anything before it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.findings import Finding
from lightning_gradguard.step.adam_update import AdamUpdate
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.saved_state import SavedState
from lightning_gradguard.step.trial import Trial, better, blocked, level_of

#: Shortest and longest trial in steps. Chosen.
SHORTEST, LONGEST = 8, 1000
Deed = Callable[[], str]
#: Name, the cause that is proved when it helps, deeds.
Candidate = tuple[str, str, Sequence[Deed]]


class RemedySearch:
    """Tries remedies on one optimizer's run.

    Args:
        module: The module in training.
        optimizer: Its optimizer.
        lr_scale: Its learning-rate factor.
        changed: Called whenever modules may have been exchanged.
    """

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, lr_scale: LRFactor, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.module, self.optimizer, self.lr_scale, self.changed = module, optimizer, lr_scale, changed
        self.adaptive = AdamUpdate(optimizer)
        self.initial: SavedState | None = None
        self._early: list[float] = []
        self.finding: Finding | None = None
        self.window = 0
        self.kept: list[Trial] = []
        self.tried: set[str] = set()
        self.improved, self.by_hand, self.clearly = False, "", 0.7
        self._left = math.inf
        self._recent: deque[float] = deque(maxlen=LONGEST)
        self._waiting: list[Candidate] = []
        self._origin: SavedState | None = None
        self._level = self._error = math.inf
        self._trials: list[Trial] = []
        self._losses: list[float] = []
        self._bad, self._sick, self._anew = 0, False, False
        self._look: ActivationStats | None = None

    @property
    def first(self) -> float:
        """Where the loss began: the median of the first steps; NaN before any."""
        return float(np.median(self._early)) if self._early else math.nan

    @property
    def active(self) -> bool:
        """Whether a trial is running."""
        return self.finding is not None

    @property
    def wants_look(self) -> bool:
        """Whether the next step should be looked into: it is the last of a trial."""
        return self.active and len(self._losses) + self._bad + 1 >= self.window

    @property
    def trial(self) -> str:
        """Name of the running trial; empty outside a course."""
        return self._trials[-1].name if self.active and self._trials else ""

    def remember(self) -> None:
        """Before the very first step: the state that `restart` goes back to."""
        self.initial = self._checkpoint(0)

    def observe(self, loss: float | None) -> None:
        """The loss of one more step outside a course."""
        if loss is not None and math.isfinite(loss):
            self._early = [*self._early, loss] if len(self._early) < SHORTEST else self._early
            self._recent.append(loss)

    def begin(
        self,
        finding: Finding,
        candidates: Sequence[Candidate],
        window: int,
        look: ActivationStats | None = None,
        by_hand: str = "",
        clearly: float = 0.7,
        left: float = math.inf,
    ) -> str:
        """Starts a course; returns what was done, in words.

        Args:
            finding: What it is about.
            candidates: For each trial a name, the cause it would prove, and the deeds; a deed that returns "" does
                not apply here.
            window: Steps of a trial.
            look: The latest look inside.
            by_hand: What is left for the user to do when nothing helps.
            clearly: A trial whose loss is below this share of anything before it ends the course.
            left: Steps that the run has left: no trial begins that would leave it less than another such time.
        """
        self._left = left
        self.by_hand, self.clearly = by_hand, clearly
        self._sick = blocked(look)
        self.finding, self.window, self._trials = finding, window, []
        self._waiting = [candidate for candidate in candidates if candidate[0] not in self.tried]
        self._origin = self._checkpoint(finding.step)
        recent = list(self._recent)[-window:]
        self._level, self._error = level_of(recent) if len(recent) >= 3 else (math.inf, math.inf)
        return self._next()

    def _checkpoint(self, step: int) -> SavedState:
        return SavedState(self.module, self.optimizer, self.lr_scale, self.adaptive, step)

    def restart(self) -> str:
        """Back to the initial weights, with an empty optimizer."""
        if self.initial is None:
            return ""
        self.initial.restore()
        self._anew = True
        return "back to the initial weights"

    def _next(self) -> str:
        """Puts the next candidate into force, from the same start; ends the course when there is none."""
        while self._waiting and self._left >= 2 * self.window:
            name, cause, deeds = self._waiting.pop(0)
            assert self._origin is not None
            self._origin.restore()
            words, self._anew = [], False
            for deed in deeds:
                words.append(deed())
                if not words[-1]:
                    break
            if all(words):
                self._losses, self._bad, self._look = [], 0, None
                begin = self._checkpoint(0) if self._anew else None
                self._trials.append(Trial(name, ", ".join(words), cause, begin=begin))
                self.tried.add(name)
                self.changed()
                return f"trying {self._trials[-1].words}"
        return self._finish()

    def follow(self, loss: float | None, clean: bool, look: ActivationStats | None, cancel: Callable[[], None]) -> str:
        """One step of the running trial; says what was done, if anything.

        Args:
            loss: The step's loss.
            clean: Whether loss and gradients are finite.
            look: A look inside the step's batch, if there was one.
            cancel: Makes the step a no-op; called before anything is changed.
        """
        self._look = look if look is not None else self._look
        self._left -= 1
        if clean and loss is not None:
            self._losses.append(loss)
        else:
            self._bad += 1
            cancel()
        failed = self._failed()
        if not failed and len(self._losses) + self._bad < self.window:
            return ""
        cancel()
        trial = self._trials[-1]
        if not failed and self._losses:
            trial.level, trial.error = level_of(self._losses[len(self._losses) // 2 :])
            trial.sick, trial.look = blocked(self._look), self._look
            best = next((other for other in self._trials if other.end is not None), None)
            if best is None or better(trial, best):
                for other in self._trials[:-1]:
                    other.begin = other.end = None
                trial.end = self._checkpoint(0)
        if trial.end is None:
            trial.begin = None
        return self._finish() if self._clear(trial) else self._next()

    def _failed(self) -> bool:
        """Whether the trial has gone wrong before its time: NaN again and again, or far above where the run was."""
        if self._bad >= 3 and self._bad > len(self._losses) / 4:
            return True
        marks = [abs(x) for x in (self._level, self.first) if math.isfinite(x)]
        enough = len(self._losses) >= max(2 * SHORTEST, self.window // 3)
        if not enough or not marks:
            return False
        half = len(self._losses) // 2
        now, then = level_of(self._losses[half:])[0], level_of(self._losses[:half])[0]
        return now > 3 * max(marks) and now >= then

    def _clear(self, trial: Trial) -> bool:
        """Whether the trial is so much better than the run ever was that no other is needed."""
        starts = [*self._early[:1], *self._losses[:1]]  # two samples of where the first weights stand
        marks = [x for x in (self._level, float(np.mean(starts or [math.inf]))) if math.isfinite(x)]
        if trial.sick or not marks or not math.isfinite(trial.level):
            return False
        gain = min(marks) - trial.level
        return gain > (1 - self.clearly) * abs(min(marks)) and gain > 4 * trial.error

    def _finish(self) -> str:
        """Keeps the best trial if it beats the start, and puts the start back if none does."""
        origin = self._origin
        assert origin is not None
        self.finding, self._origin = None, None
        best = next((t for t in self._trials if t.end is not None), None)
        tried, self._trials = self._trials, []
        self._recent.clear()
        if best is not None and best.end is not None and self._beats(best):
            best.end.restore()
            self.initial = best.begin or self.initial  # a later cure begins with what this one has changed
            best.begin = best.end = None
            self.kept.append(best)
            self.improved = best.level < self._level - 0.1 * abs(self._level) or not math.isfinite(self._level)
            self.changed()
            return f"kept {best.words} (loss {best.level:.3g}, was {self._level:.3g})"
        origin.restore()
        self.changed()
        if not tried:
            return ""
        return f"none of {len(tried)} trials helped: {'; '.join(t.words for t in tried)}"

    def _beats(self, trial: Trial) -> bool:
        """Whether a trial is worth keeping: a lower loss beyond chance, or a cure that the loss does not show yet."""
        if not math.isfinite(trial.level) or not math.isfinite(self._level):
            return math.isfinite(trial.level)
        exploded = self._error > 0.5 * abs(self._level)  # no scatter to be careful about
        chance = 2 * (trial.error if exploded else math.hypot(trial.error, self._error))
        cured = self._sick and not trial.sick
        return trial.level < self._level + (chance if cured else -chance)

    def state_dict(self) -> dict[str, Any]:
        """What outlives a checkpoint: a running course does not, its trial goes on as it is."""
        return {"adaptive": self.adaptive.state_dict(), "early": self._early}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.adaptive.load_state_dict(state["adaptive"])
        self._early = list(state["early"])
