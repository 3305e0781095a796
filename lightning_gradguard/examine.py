"""`doctor`: an experiment before a run: does it learn, and would another setting do far better?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_gradguard.arguments import require_number
from lightning_gradguard.callback import GradGuard
from lightning_gradguard.findings import Finding, Incident, describe
from lightning_gradguard.policy import REPAIR, Policy
from lightning_gradguard.remedies import TryEach
from lightning_gradguard.step.checkup import FEWEST, MOST, NOWHERE, Checkup, Question, is_ahead, is_clear
from lightning_gradguard.step.experiment import FURTHER_PASSES, Arm, Verdict, most_steps
from lightning_gradguard.step.model_changes import CodeChange
from lightning_gradguard.step.rerun import same_generators
from lightning_gradguard.tensors.copies import optimizer_params
from lightning_gradguard.trainer import trainer_class

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: What a run is found to be: another setting is clearly better and there is a reason to change it; it gets nowhere and
#: nothing helps; it learns, and another setting is clearly faster; it learns.
BROKEN, STUCK, SLOWER, HEALTHY = "broken", "gets nowhere", "healthy, could be faster", "healthy"


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What an experiment before a run has shown.

    Args:
        state: `"broken"`, `"gets nowhere"`, `"healthy, could be faster"` or `"healthy"`.
        control: The run as it is.
        best: The setting that does best; None when none is clearly better.
        arms: Every setting that was tried.
        cause: What was wrong if that setting helps: the kind of a finding; empty without one.
        incidents: What the detectors found in the first steps.
        untrained: Mean loss of an untrained model.
    """

    state: str
    control: Arm
    best: Arm | None
    arms: tuple[Arm, ...]
    cause: str
    incidents: tuple[Incident, ...]
    untrained: float

    @property
    def changes(self) -> tuple[CodeChange, ...]:
        """What to change in the module, as code."""
        return self.best.changes if self.best is not None else ()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        steps = len(self.control.losses)
        passes = f"{steps} steps and {FURTHER_PASSES} further passes over the same batches"
        why = f": {self.cause}" if self.state == BROKEN else ""
        yield f"{self.state[0].upper()}{self.state[1:]}{why}."
        yield f"The loss is {self.untrained:.3g} untrained and {self.control.loss:.3g} after {passes}."
        if self.best is not None and self.best.candidate is not None:
            fewer = self.steps_to(self.best)
            sooner = f", and as low as the run's after {fewer} of {len(self.control.history)} steps" if fewer else ""
            yield f"With {self.best.candidate.name} it is {self.best.loss:.3g}{sooner} ({self.best.summary})."
        elif self.state == STUCK:
            yield "Nothing that was tried helps: check the loss function, the output activation, labels and targets."
        else:
            yield "Nothing that was tried is clearly better."
        yield from (f"Found: {describe(i.kind, i.layers, i.detail)}." for i in self.incidents)
        for method in dict.fromkeys(change.method for change in self.changes):
            yield f"To change it, write at the end of `{method}`:"
            yield from (f"    {change}" for change in self.changes if change.method == method)

    def steps_to(self, arm: Arm) -> int | None:
        """Steps after which the last ten losses of an arm are on average below where the run ends; None if never."""
        ten = 10
        means = (sum(arm.history[i : i + ten]) / ten for i in range(len(arm.history) - ten + 1))
        return next((i + ten for i, mean in enumerate(means) if mean <= self.control.loss), None)

    def figure(self) -> go.Figure:
        """The loss of every setting over its steps, and over the factors of the learning rate."""
        from lightning_gradguard.show.experiment_figure import experiment_figure

        return experiment_figure(self.control, self.arms, self.best)

    def write_html(self, path: str | Path) -> None:
        """Writes the verdict, the picture and the table into one HTML file that needs no network."""
        from lightning_gradguard.show.experiment_figure import experiment_page

        rows = [(arm.candidate.name, arm.loss) for arm in self.arms if arm.candidate is not None]
        Path(path).write_text(experiment_page(str(self), self.figure(), rows), encoding="utf-8")


class Examiner(GradGuard):
    """Watches the first steps of a run without touching it, then tries every setting beside it, and ends the run.

    Args:
        steps: How many.
        followed: Called with how many steps of the experiment there are at most, before the first; what it returns is
            called after each.
    """

    def __init__(self, steps: int, followed: Callable[[int], Callable[[], Any]]) -> None:
        super().__init__(Policy({"no_progress": [TryEach(REPAIR.trials)]}, name="doctor"), record=False)
        self.count, self.followed = steps, followed
        self.arms: tuple[Arm, ...] = ()
        self.verdict: Verdict | None = None
        self.question = Question(Finding("", 0), REPAIR.trials)
        self.checkup: Checkup
        self.taken = 0  # steps that were kept for the experiment

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        checkups = [engine.actor.checkup for engine in self._engines.values()]
        # Without an optimizer, Lightning makes one that holds no parameters.
        one = len(checkups) == trainer.world_size == 1 and optimizer_params(trainer.optimizers[0])
        if not one or checkups[0] is None:
            raise ValueError(
                "`doctor(module)` must have one optimizer, automatic optimization and one process, got "
                f"{type(pl_module).__name__}."
            )
        self.checkup = checkups[0]
        # Everything is kept, in the second half of a short run too, and there is no experiment before the end.
        self.checkup.quarter = self.checkup.next_possible = self.checkup.last_step = math.inf

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if all(engine.steps >= self.count for engine in self._engines.values()) and not self._losses:
            self._examine()
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._examine()  # a run that is shorter
        super().on_train_end(trainer, pl_module)

    def _open_logbook(self, trainer: Any) -> None:
        """Nothing is told but the diagnosis."""

    def _examine(self) -> None:
        checkup = self.checkup
        self.taken = len(checkup.kept)
        if self.verdict is not None or self.taken < FEWEST:
            return
        self.question = Question(next(iter(self.findings), Finding("", self.taken)), REPAIR.trials)
        checkup.rerun.step_taken = self.followed(most_steps(self.taken, len(REPAIR.trials)))
        checkup.examine(self.question, keep=False)
        self.verdict, self.arms = checkup.verdict, tuple(checkup.tried)

    def diagnosis(self) -> Diagnosis:
        """What was found."""
        verdict = self.verdict
        if verdict is None:
            raise ValueError(
                f"`doctor(module, data)` must be able to take at least {FEWEST} optimizer steps on finite batches, got "
                f"{self.taken}: set `max_epochs` higher, or give more data."
            )
        best = verdict.best
        ahead = best is not None and is_ahead(verdict, self.question) and verdict.is_certain(best)
        progress = -math.inf if verdict.control.failed else verdict.progress(verdict.control.loss)
        if is_clear(verdict, self.question, math.nan):
            state = BROKEN
        elif progress < NOWHERE:
            state = STUCK
        else:
            state = SLOWER if ahead else HEALTHY
        told = best if state in (BROKEN, SLOWER) else None
        cause = told.candidate.cause if told is not None and told.candidate is not None else ""
        return Diagnosis(state, verdict.control, told, self.arms, cause, self.incidents, verdict.untrained)


def doctor(
    module: Any,
    data: Any,
    steps: int = 60,
    followed: Callable[[int], Callable[[], Any]] = lambda most: lambda: None,
    **trainer_options: Any,
) -> Diagnosis:
    """Examines a module before it is trained: whether it learns, and which other setting does far better.

    A copy of the module takes its first steps; then every setting of `policy="repair"` takes the same steps from the
    same initial weights (`docs/repair.md`). It takes the time of about 25 times as many steps. The module, its data and
    the random generators are left as they were.

    Args:
        module: A LightningModule with one optimizer and automatic optimization.
        data: A loader or a LightningDataModule.
        steps: First steps that are taken, 24 to 150. Default chosen.
        followed: Called with how many steps of the experiment there are at most; what it returns is called after each.
        trainer_options: As for the Trainer of the run, e.g. `max_epochs=10, precision="bf16-mixed"`: schedules depend
            on them.

    Raises:
        ValueError: If `steps` is out of range, the module has no optimizer, several or manual optimization, or the run
            takes fewer than 24 steps.

    Example::

        diagnosis = lightning_gradguard.doctor(module, loader, max_epochs=10)
        print(diagnosis)
        diagnosis.write_html("diagnosis.html")
    """
    require_number("doctor(steps=...)", steps, at_least=FEWEST, at_most=MOST, whole=True)
    examiner = Examiner(steps, followed)
    if trainer_options.get("max_steps", -1) == -1:
        trainer_options.setdefault("max_epochs", 1000)  # Lightning's default
    callbacks = [*trainer_options.pop("callbacks", ()), examiner]
    quiet = dict(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer = trainer_class(module)(callbacks=callbacks, **{**quiet, **trainer_options})
    is_module = hasattr(data, "train_dataloader")
    with same_generators(trainer.strategy.root_device):
        trainer.fit(copy.deepcopy(module), **{"datamodule" if is_module else "train_dataloaders": data})
    return examiner.diagnosis()
