"""Experiments beside a run: they leave no trace, a clear winner takes the run's place, and nothing else does."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from runs import Net, fit, loader, same_state
from torch import Tensor, nn

from lightning_gradguard import GradGuard
from lightning_gradguard.detectors import AbstractDetector
from lightning_gradguard.findings import EXHAUSTED, KEPT, PROPOSED, UNDONE, Action, Finding
from lightning_gradguard.policy import REPAIR, Policy
from lightning_gradguard.remedies import AbstractRemedy, ScaleLR, SwapActivation, TryEach
from lightning_gradguard.step import experiment as experiment_module
from lightning_gradguard.step.checkup import FEWEST, MOST, Checkup, Question, has_reason, is_ahead, is_clear
from lightning_gradguard.step.experiment import Arm, Candidate, Experiment, Verdict, last_third, leaders
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.pending_step import PendingStep
from lightning_gradguard.step.rerun import KeptStep, Rerun

# ---------------------------------------------------------------- without a trace


class Experimenting(GradGuard):  # type: ignore[misc]
    """Makes experiments with all arms after the given steps, whatever there is reason for, and keeps none."""

    def __init__(self, *steps: int) -> None:
        super().__init__("repair", detectors=[], record=False)
        self.at, self.events, self.states_held = list(steps), [], False

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        (engine,) = self._engines.values()
        checkup = engine.actor.checkup
        checkup.last_step = checkup.quarter = math.inf
        if self.at and engine.steps >= self.at[0] and not self._losses:
            self.at.pop(0)
            question = Question(Finding("forced", engine.steps), REPAIR.trials)
            self.events.append(checkup.examine(question, keep=False))
            self.states_held |= any(arm.end is not None for arm in (*checkup.tried, checkup.verdict.control))


class Eventful(Net):
    """A module whose step changes all that a step can: generators, attributes, teachers in view and out of view."""

    def __init__(self, *args: Any, **options: Any) -> None:
        net = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Sigmoid(), nn.Dropout(0.2), nn.Linear(16, 16), nn.ReLU(),
            nn.Linear(16, 3),
        )  # fmt: skip
        super().__init__(net, *args, **options)
        self.teacher = nn.Linear(16, 3).requires_grad_(False)
        hidden, shadow = nn.Linear(16, 3), [torch.zeros(3, 16)]
        self.shadows: list[Any] = [{"a": shadow}]
        self.follow = lambda weight: hidden.weight.lerp_(weight, 0.01) + shadow[0].lerp_(weight, 0.01)
        self.seen: list[float] = []
        self.count = torch.zeros(())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        self.seen.append(random.random() + np.random.rand())
        self.count += 1
        with torch.no_grad():
            self.teacher.weight.lerp_(self.net[-1].weight, 0.01)
            pull = 0.001 * self.follow(self.net[-1].weight).sum()
        x = x + 0.01 * random.random() + 0.01 * np.random.rand()
        loss = nn.functional.cross_entropy(self.net(x), y) + pull * self.net[-1].weight.sum()
        self.log("train_loss", loss, on_epoch=True)
        return loss


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2),
    "fused": lambda params: torch.optim.Adam(params, lr=1e-2, fused=True),
    "momentum": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9, nesterov=True),
    "plain": lambda params: torch.optim.SGD(params, lr=1e-2),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=1e-3, eps=1e-2, momentum=0.5),
    "adadelta": lambda params: torch.optim.Adadelta(params, lr=1.0),
    "lbfgs": lambda params: torch.optim.LBFGS(params, lr=0.1, max_iter=2),
    "tensor rate": lambda params: torch.optim.Adam(params, lr=torch.tensor(1e-2), foreach=False),
}


def scheduled(params: Any) -> Any:
    optimizer = torch.optim.AdamW(params, lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=1000)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def seeded(module: type[Net], optimizer: Any, *callbacks: Any, batches: int = 60, **options: Any) -> Net:
    pl.seed_everything(3)
    built = module(optimizer=optimizer)
    fit(built, *callbacks, data=loader(batches), **options)
    return built


@pytest.mark.filterwarnings("ignore:.*gradient_clip_val.*clips after GradGuard")
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        *((make, {}) for make in OPTIMIZERS.values()),
        (scheduled, {}),
        (OPTIMIZERS["adamw"], {"accumulate_grad_batches": 2, "batches": 120}),
        (OPTIMIZERS["adamw"], {"gradient_clip_val": 0.1}),
        (OPTIMIZERS["adamw"], {"precision": "bf16-mixed"}),
    ],
    ids=[*OPTIMIZERS, "schedule", "accumulation", "clipping", "bf16"],
)
def test_an_experiment_leaves_no_trace(optimizer: Any, options: dict[str, Any]) -> None:
    guard = Experimenting(25, 40)
    guarded = seeded(Eventful, optimizer, guard, **options)
    after = random.random(), np.random.rand(), torch.rand(1).item()
    alone = seeded(Eventful, optimizer, **options)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == after
    assert same_state(alone, guarded)
    assert guarded.seen == alone.seen
    assert guarded.count == alone.count
    assert [len(event.trials) > 10 for event in guard.events] == [True, True]
    assert not guard.states_held
    assert guard.changes == ()


def test_gradients_settings_and_modules_are_the_same_objects_after_an_experiment() -> None:
    class Looking(Experimenting):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            before = self.state_of(module)
            super().on_train_batch_end(trainer, module, *args)
            assert self.state_of(module) == before

        def state_of(self, module: Any) -> Any:
            groups = [{k: v for k, v in g.items() if k != "params"} for g in module.optimizers().param_groups]
            return [id(p.grad) for p in module.parameters()], groups, list(map(id, module.modules()))

    guard = Looking(30)
    seeded(Eventful, OPTIMIZERS["adamw"], guard)
    assert len(guard.events) == 1


# ---------------------------------------------------------------- a run that is examined


@dataclass(frozen=True)
class At(AbstractDetector):
    """Reports at given steps."""

    kind: ClassVar[str] = "at"
    name: str = "at"
    steps: tuple[int, ...] = ()

    def init(self) -> dict[str, Any]:
        return {}

    def update(self, state: dict[str, Any], stats: Any) -> Any:
        return state, (Finding("at", stats.step),) if stats.step in self.steps else ()


def asking(*trials: Sequence[AbstractRemedy], at: int = 20) -> GradGuard:
    policy = Policy({"at": [TryEach(tuple(map(tuple, trials)), advice="wait")]})
    return GradGuard(policy, [At(steps=(at,))])


def slow(params: Any) -> Any:
    return torch.optim.SGD(params, lr=1e-5)


def test_a_clear_winner_takes_the_place_of_the_run() -> None:
    guard = asking([ScaleLR(0.5)], [ScaleLR(1e4)], [SwapActivation("Tanh")])
    module = seeded(Net, slow, guard, batches=100)
    alone = seeded(Net, slow, batches=100)
    cause = next(i for i in guard.incidents if i.kind == "lr_too_small")
    about = next(i for i in guard.incidents if i.kind == "at")
    assert (cause.actions, about.actions, cause.first_step) == (("ScaleLR(10000)",), ("ScaleLR(10000)",), 24)
    assert {trial.remedies: trial.outcome for trial in about.trials}["ScaleLR(10000)"] == KEPT
    assert [str(change) for change in guard.changes] == ['for group in optimizer.param_groups: group["lr"] *= 10000']
    x, y = torch.cat([b[0] for b in loader(100)]), torch.cat([b[1] for b in loader(100)])
    losses = [float(nn.functional.cross_entropy(m.net(x), y)) for m in (module, alone)]
    assert losses[0] < 0.7 < losses[1]


def test_what_is_not_clearly_better_changes_nothing_and_leaves_its_table_and_advice() -> None:
    guard = asking([ScaleLR(0.9)], [ScaleLR(0.5)])
    module = seeded(Net, OPTIMIZERS["adamw"], guard, batches=100)
    assert same_state(module, seeded(Net, OPTIMIZERS["adamw"], batches=100))
    (incident,) = guard.incidents
    assert [(t.remedies, t.outcome, math.isfinite(t.loss)) for t in incident.trials] == [
        ("ScaleLR(0.9)", UNDONE, True), ("ScaleLR(0.5)", UNDONE, True),
    ]  # fmt: skip
    assert (incident.actions, incident.advice) == ((), "wait")


def test_a_run_that_gets_nowhere_is_examined_at_a_quarter_of_its_steps() -> None:
    guard = GradGuard(Policy({"at": [TryEach(((ScaleLR(1e4),),))]}), [At()])
    seeded(Net, slow, guard, batches=120)
    assert [(incident.kind, incident.first_step) for incident in guard.incidents] == [("lr_too_small", 30)]


@pytest.mark.parametrize("policy", ["monitor", "protect"])
def test_explaining_tells_what_would_be_better_and_touches_nothing(policy: Any) -> None:
    guard = GradGuard(policy, explain=True)
    module = seeded(Net, slow, guard, batches=120)
    assert same_state(module, seeded(Net, slow, batches=120))
    found = next(i for i in guard.incidents if "found by an experiment: would keep" in i.detail)
    about = next(i for i in guard.incidents if i.trials)
    assert about.actions == found.actions == ()
    assert [trial.outcome for trial in about.trials].count(PROPOSED) == 1
    assert about.advice.startswith("write '")
    assert guard.changes == ()


def test_without_explaining_monitor_makes_no_experiment() -> None:
    guard = GradGuard("monitor")
    seeded(Net, slow, guard, batches=120)
    assert not any(incident.trials for incident in guard.incidents)


@dataclass(frozen=True)
class Raises(AbstractRemedy):
    """Raises."""

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        raise ZeroDivisionError


@dataclass(frozen=True)
class Break(AbstractRemedy):
    """Makes the first layer one that does not take its input."""

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        assert step.module is not None
        step.module.net[0] = nn.Linear(5, 5)
        return self.did("broke it")


def test_what_raises_in_an_arm_ends_the_arm() -> None:
    guard = asking([Raises()], [Break()], [ScaleLR(1e30)])
    module = seeded(Net, slow, guard)
    assert same_state(module, seeded(Net, slow))
    losses = {trial.remedies: trial.loss for incident in guard.incidents for trial in incident.trials}
    assert losses == {"Break": math.inf, "ScaleLR(1e+30)": math.inf}


@dataclass(frozen=True)
class Speaks(AbstractRemedy):
    """A remedy of the last release: it returns what it did as text."""

    def apply(self, finding: Finding, step: PendingStep) -> Any:
        return "did nothing"


def test_a_remedy_that_returns_text_is_tried_as_well() -> None:
    guard = asking([Speaks()])
    with pytest.warns(DeprecationWarning, match="returned text"):
        module = seeded(Net, slow, guard)
    assert same_state(module, seeded(Net, slow))
    assert [trial.remedies for incident in guard.incidents for trial in incident.trials] == ["Speaks"]


def test_in_the_second_half_of_a_run_nothing_is_examined() -> None:
    guard = asking([ScaleLR(1e4)], at=61)
    module = seeded(Net, OPTIMIZERS["adamw"], guard, batches=120)
    assert same_state(module, seeded(Net, OPTIMIZERS["adamw"], batches=120))
    assert [incident.trials for incident in guard.incidents] == [()]


# ---------------------------------------------------------------- what is kept, and when a look is due


class Fake:
    """A `Checkup` without a run: it notes when it looks."""

    def __init__(self, total_steps: int | None = 400) -> None:
        nothing: Any = lambda *_: None  # noqa: E731
        self.looks: list[tuple[str, float]] = []
        self.checkup = Checkup(
            save=nothing, apply=nothing, is_called_for=nothing, changed=nothing, ready=nothing, aside=nullcontext,
            trials=("all",),
            total_steps=total_steps, rerun=SimpleNamespace(in_all=list),
            lr_factor=LRFactor(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)),
        )  # fmt: skip
        self.checkup.initial = self.checkup  # type: ignore[assignment]
        self.checkup.examine = self.examine  # type: ignore[method-assign, assignment]

    def examine(self, question: Question, best: float) -> None:
        self.looks.append((question.finding.kind, best))

    def run(self, steps: int, asked: Sequence[int] = ()) -> list[tuple[int, str]]:
        """Steps after which it looked, and why."""
        seen = []
        for step in range(1, steps + 1):
            self.checkup.keep([(torch.zeros(2), step)], 1.0)
            if step in asked:
                self.checkup.ask(Question(Finding("a", step), ("some",)))
            self.checkup.between_steps(step, math.nan)
            seen += [(step, kind) for kind, _ in self.looks]
            self.looks.clear()
        return seen


@pytest.mark.parametrize(
    ("total", "asked", "looks"),
    [
        (400, (), [(100, "")]),
        (400, (3,), [(FEWEST, "a"), (100, "")]),
        (400, (3, 25), [(FEWEST, "a"), (2 * FEWEST, "a"), (100, "")]),
        (400, (30, 70, 201), [(30, "a"), (70, "a"), (100, "")]),
        (400, (150,), [(100, ""), (200, "a")]),
        (None, (), [(MOST, "")]),
        (2 * FEWEST - 2, (3,), []),
    ],
)
def test_a_look_is_due_when_it_is_asked_for_and_at_a_quarter_and_each_doubles_the_wait(
    total: int | None, asked: tuple[int, ...], looks: list[tuple[int, str]]
) -> None:
    assert Fake(total).run(300, asked) == looks


def test_without_initial_weights_there_is_no_look_and_nothing_is_kept() -> None:
    fake = Fake()
    fake.checkup.initial = None
    assert fake.run(150, (30,)) == []
    assert fake.checkup.kept == []


@pytest.mark.parametrize(("total", "most"), [(40, FEWEST), (400, 100), (4000, MOST), (None, MOST)])
def test_as_many_steps_are_kept_as_a_quarter_of_the_run_has(total: int | None, most: int) -> None:
    fake = Fake(total)
    for step in range(400):
        fake.checkup.keep([(torch.zeros(2), step)], 1.0)
    assert len(fake.checkup.kept) == most


def test_batches_that_are_not_finite_and_more_bytes_than_allowed_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    checkup = Fake().checkup
    checkup.keep([({"x": [torch.tensor([math.nan])]}, 0)], None)
    checkup.keep([], 1.0)
    assert checkup.kept == []
    checkup.keep([(torch.ones(3), 0)], math.nan)
    assert [(step.lrs, step.loss) for step in checkup.kept] == [((0.1,), math.inf)]
    monkeypatch.setattr("lightning_gradguard.step.checkup.MOST_BYTES", 1000)
    for step in range(10):
        checkup.keep([(torch.ones(50), step)], 1.0)
    assert len(checkup.kept) == 5
    checkup.forget()
    assert (checkup.kept, checkup.initial) == ([], None)


def test_where_the_loss_began_is_the_median_of_the_first_eight_finite_losses_and_survives_a_checkpoint() -> None:
    checkup, other = Fake().checkup, Fake().checkup
    assert math.isnan(checkup.initial_loss)
    for loss in (None, math.inf, *range(1, 12)):
        checkup.keep([], loss)
    other.load_state_dict(checkup.state_dict())
    assert other.initial_loss == checkup.initial_loss == 4.5


# ---------------------------------------------------------------- the verdict


def arm(loss: float, noise: float = 0.0, name: str = "x", steps: int = 30) -> Arm:
    candidate = Candidate(name, name, "x", lambda: ())
    return Arm(candidate, losses=[loss + noise * (-1) ** i for i in range(steps)])


def verdict(control: float, *arms: Arm, untrained: float = 2.0, noise: float = 0.0) -> Verdict:
    return Verdict(untrained, arm(control, noise), arms, samples=1000)


ABOUT, SCHEDULED = Question(Finding("a", 9), ()), Question(Finding("", 9), ())


def test_the_simplest_of_the_arms_that_are_about_as_good_is_taken() -> None:
    first, second, third = arm(1.5), arm(1.09), arm(1.0)
    assert verdict(2.0, first, second, third).best is second
    assert verdict(2.0, first, arm(math.nan)).best is first
    assert verdict(2.0, arm(math.inf)).best is None
    assert verdict(2.0).best is None


def test_gains_are_shares_of_the_untrained_loss_also_where_the_run_has_failed() -> None:
    assert verdict(1.5, untrained=2.0).gain(arm(1.0)) == 0.25
    assert verdict(math.inf, untrained=2.0).gain(arm(1.0)) == 0.5
    assert verdict(1.5, untrained=2.0).progress(0.5) == 0.75


def test_beside_a_run_that_has_diverged_arms_are_compared_with_an_untrained_model() -> None:
    good, better = arm(0.5), arm(0.01, name="y")
    assert verdict(1e5, good, better).best is better
    assert verdict(math.nan, good, better).best is better
    close = arm(0.09)
    assert verdict(1e5, close, better).best is close  # a lead of 1.91 of 1.99
    assert verdict(1e5, arm(0.11), better).best is better  # eleven times its loss
    assert verdict(1e5, arm(math.nan), arm(math.inf)).best is None


def test_an_arm_must_be_ahead_beyond_chance() -> None:
    noisy = Verdict(2.0, Arm(None, losses=[2.0] * 30), [arm(1.5, noise=0.4)])
    assert noisy.is_certain(noisy.arms[0])
    noisier = Verdict(2.0, Arm(None, losses=[2.0] * 30), [arm(1.5, noise=0.6)])
    assert not noisier.is_certain(noisier.arms[0])
    assert verdict(math.nan, noisier.arms[0]).is_certain(noisier.arms[0])


@pytest.mark.parametrize(
    ("control", "loss", "scheduled", "asked"),
    [
        (1.9, 1.5, True, True),  # gets nowhere: 0.05 of the untrained loss
        (1.9, 1.7, False, False),  # 0.1 ahead is too little
        (1.3, 0.9, True, True),  # it is slow: 0.35 of the untrained loss
        (1.1, 0.7, False, True),
        (0.9, 0.1, False, True),  # it is learning
        (0.1, 0.05, False, True),  # half of the control's loss
        (0.1, 0.09, False, False),
    ],
)
def test_what_is_clear_depends_on_the_reason(control: float, loss: float, scheduled: bool, asked: bool) -> None:
    found = verdict(control, arm(loss))
    assert is_clear(found, SCHEDULED, math.nan) == scheduled
    assert is_clear(found, ABOUT, math.nan) == asked


def test_a_win_of_what_helps_no_healthy_run_is_a_reason_though_the_run_is_slow_no_more() -> None:
    better = arm(0.7)
    assert better.candidate is not None
    better.candidate = replace(better.candidate, only_corrects=True)
    assert is_clear(verdict(1.1, better), SCHEDULED, math.nan)
    assert not is_clear(verdict(1.1, arm(0.7)), SCHEDULED, math.nan)


def test_what_is_further_off_than_in_any_published_recipe_is_a_reason_of_its_own() -> None:
    better, other = arm(0.089, name="far off"), arm(0.04)
    found = Verdict(2.0, arm(0.1), [better], samples=1000, far_off=[better.candidate])
    assert is_clear(found, SCHEDULED, math.nan)
    assert not is_clear(replace(found, far_off=()), SCHEDULED, math.nan)
    assert not is_clear(replace(found, arms=[other]), SCHEDULED, math.nan)
    assert not is_clear(replace(found, arms=[replace(better, losses=[0.091] * 30)]), SCHEDULED, math.nan)


@dataclass(frozen=True)
class Faster(AbstractRemedy):
    """Ten times the learning rate, for something that is far off or not."""

    far_off: bool = True

    def is_called_for(self, step: PendingStep) -> bool:
        return self.far_off

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        return ScaleLR(10).apply(finding, step)


@pytest.mark.parametrize("far_off", [True, False])
def test_a_run_whose_loss_falls_is_changed_only_by_what_repairs_something_far_off(far_off: bool) -> None:
    guard = asking([ScaleLR(0.1)], [Faster(far_off)], [ScaleLR(10.1)], at=10**6)
    seeded(Net, lambda params: torch.optim.Adam(params, lr=7e-4), guard, batches=400)
    assert [(i.kind, i.actions) for i in guard.incidents] == [("no_progress", ("Faster",))] * far_off


def test_an_arm_must_be_below_all_that_the_run_has_reached() -> None:
    found = verdict(1.9, arm(1.0))
    assert is_clear(found, ABOUT, 1.1)
    assert not is_clear(found, ABOUT, 0.9)


def test_a_run_that_has_failed_is_a_reason_and_one_that_learns_is_none() -> None:
    assert has_reason(verdict(math.nan), SCHEDULED)
    assert not has_reason(verdict(0.9), SCHEDULED)
    assert has_reason(verdict(0.9), ABOUT)
    assert is_ahead(verdict(1.9, arm(1.79)), SCHEDULED, 1 / 3)
    assert not is_ahead(verdict(1.9), SCHEDULED, 0.0)


def test_a_run_of_few_samples_is_slow_only_if_it_gets_nowhere() -> None:
    def has(control: float, samples: int) -> bool:
        return has_reason(Verdict(2.0, arm(control), (), samples), SCHEDULED)

    assert [has(1.5, 499), has(1.5, 500), has(1.9, 499)] == [False, True, True]
    step = KeptStep(((torch.zeros(3, 9), 0), ([torch.zeros(()), torch.zeros(4)], 1)), (), 1.0)
    assert step.samples == 7


def test_an_arm_that_failed_in_the_steps_that_are_judged_has_failed() -> None:
    assert Arm(None, losses=[1.0, 1.0, 1.0, 1.0, math.inf, 1.0]).failed
    assert not Arm(None, losses=[math.inf, 1.0, 1.0, 1.0, 1.0, 1.0]).failed
    assert Arm(None).failed
    assert last_third(list(range(9))) == [6, 7, 8]


class State:
    """A state of an arm with so many bytes."""

    def __init__(self, nbytes: int = 1) -> None:
        self.nbytes = nbytes


@pytest.mark.parametrize(("nbytes", "left"), [(1, [1.0, 2.0]), (60, [1.0]), (500, [1.0])])
def test_as_many_arms_are_left_as_memory_holds(nbytes: int, left: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment_module, "MOST_BYTES", 100)
    arms = [arm(loss) for loss in (3.0, 1.0, math.inf, 2.0)]
    for one in arms:
        one.end = State(nbytes)  # type: ignore[assignment]
    assert [one.loss for one in leaders(arms, 2)] == left
    assert [one.end is not None for one in arms].count(True) == len(left)


# ---------------------------------------------------------------- the arms of an experiment


class Scripted:
    """A run whose losses follow from a number: what the setting of an arm is, and how many steps it has taken."""

    def __init__(self) -> None:
        self.setting, self.taken, self.log, self.module = 0.0, 0, [], nn.Linear(1, 1)
        self.initial = self.save()

    def save(self) -> Any:
        state, run = (self.setting, self.taken), self

        class Saved:
            nbytes = 1

            def restore(self) -> None:
                run.setting, run.taken = state

        return Saved()

    def equalize(self) -> None:
        """There is one process."""

    def take_step(self, step: KeptStep, ready: Callable[[], None]) -> float:
        self.taken += 1
        self.log.append(self.setting)
        return 2.0 - self.setting * self.taken

    def losses(self, steps: Sequence[KeptStep]) -> list[float]:
        return [2.0 - self.setting] * len(steps)

    def candidate(self, setting: float, only_model: bool = False) -> Candidate:
        def apply() -> list[Action]:
            self.setting = setting
            return [Action("x", "did it")]

        return Candidate(setting, str(setting), "x", apply, only_model)

    def experiment(self, steps: int = 30) -> Experiment:
        kept = [KeptStep((), (), 2.0)] * steps
        return Experiment(self, kept, self.save, self.initial, lambda: None, lambda: None)  # type: ignore[arg-type]


def test_the_worst_arms_are_left_out_after_each_third() -> None:
    run = Scripted()
    made = run.experiment()
    settings = [i / 1000 for i in range(1, 13)]
    found = made.run([run.candidate(setting) for setting in settings], verdict(2.0))
    assert [one.candidate.remedies for one in found.arms if one.candidate] == settings[-3:]
    taken = {setting: run.log.count(setting) for setting in settings}
    assert list(taken.values()) == [10] * 4 + [20] * 5 + [30] * 3
    assert len(made.tried) == 12


def test_the_arms_that_are_left_and_the_control_go_on_from_where_they_stand() -> None:
    run = Scripted()
    made = run.experiment()
    control = arm(2.0)
    control.end = made.begin(run.candidate(0.001))
    found = made.run([run.candidate(0.01)], Verdict(2.0, control, ()))
    run.log.clear()
    made.go_on(found)
    assert (run.log.count(0.001), run.log.count(0.01)) == (60, 60)  # three passes over two thirds
    assert found.arms[0].losses[-11:] == [pytest.approx(2.0 - 0.01 * 90), *[2.0 - 0.01] * 10]


def test_an_untrained_model_stands_where_the_best_of_those_that_keep_the_optimizer_does() -> None:
    run = Scripted()
    made = run.experiment()
    assert made.measure_untrained([run.candidate(0.5, True), run.candidate(1.0)]) == 1.5
    assert made.measure_untrained([]) == 2.0


def test_a_candidate_that_does_not_apply_is_passed_over() -> None:
    run = Scripted()
    made = run.experiment()
    assert made.run([Candidate(1, "x", "x", lambda: ())], verdict(2.0)).arms == []
    assert (made.tried, run.log) == ([], [])


def test_an_event_that_no_step_has_taken_in_is_saved() -> None:
    from lightning_gradguard.findings import Trial, TrialEvent

    one, other = Fake().checkup, Fake().checkup
    one.event = TrialEvent(EXHAUSTED, "a", trials=(Trial("x", UNDONE, 1.0),))
    other.load_state_dict(one.state_dict())
    assert other.event == one.event


def test_only_steps_that_all_processes_have_kept_are_taken_again() -> None:
    def kept(*numbers: int) -> list[KeptStep]:
        return [KeptStep((), (), 1.0, number) for number in numbers]

    alone = SimpleNamespace(processes=SimpleNamespace(alone=True))
    assert [step.number for step in Rerun.in_all(alone, kept(1, 2, 4))] == [1, 2, 4]
    three = SimpleNamespace(processes=SimpleNamespace(alone=False, from_all=lambda mine: [mine, [1, 2, 3], [2, 3, 4]]))
    assert [step.number for step in Rerun.in_all(three, kept(1, 2, 4))] == [2]


def test_until_enough_steps_are_kept_it_is_asked_again_every_eight_steps() -> None:
    fake, asked = Fake(), []
    fake.checkup.rerun.in_all = lambda kept: asked.append(len(kept)) or kept[:20]
    assert fake.run(100, (3,)) == []
    assert asked == [24, *[28] * 9]
