"""The five words of a step for one optimizer, in plain torch: collect, diagnose, decide, act, record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.collect.activation_probe import ActivationProbe
from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.batch_stats import BatchStats, worst_of
from lightning_gradguard.collect.collector import Collector
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.layers import ParamTable
from lightning_gradguard.collect.loss_trend import INITIAL, follow, judge, renewed
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors import AbstractDetector, State, diagnose
from lightning_gradguard.findings import Finding, Incident, StepReport
from lightning_gradguard.policy.ladders import LadderStates, Policy, Rung, decide
from lightning_gradguard.record.incident_tracker import IncidentTracker
from lightning_gradguard.remedies import AbstractClip
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.pending_step import PendingStep, forget_scale
from lightning_gradguard.step.remedy_search import RemedySearch
from lightning_gradguard.step.snapshots import Snapshots
from lightning_gradguard.tensors.checkpointing import from_checkpoint, to_checkpoint
from lightning_gradguard.tensors.processes import ProcessGroupInfo

#: Key of what is remembered of the losses, among the detectors' states.
PROGRESS = "progress"


class StepEngine:
    """Watches one optimizer of one module.

    Args:
        module: The module in training.
        optimizer: The optimizer; only its parameters are looked at.
        detectors: What to look for.
        policy: What to do about it.
        clip: Clipping for every step, beside the policy's.
        batch: What the forward pass changes; shared by all optimizers of a module.
        name: The optimizer's index when there are several; otherwise empty.
        sample_every: Steps between two measurements of the update-to-weight ratio; each copies the parameters once.
        snapshot_every: Steps between two snapshots.
        snapshots: How many are kept.
        scaler: The GradScaler, if any.
        scaled: Whether gradients are still multiplied by the scaler's scale when the step begins (fused optimizers).
        ranks: The processes that train together; this one alone when None.
        defer: Whether a fused optimizer may clip as it reads the gradients, which saves a pass over them: only where
            nothing reads or clips them between `before_step` and the optimizer's step.

    Example:
        >>> import torch
        >>> from lightning_gradguard.detectors import DETECTORS
        >>> from lightning_gradguard.policy.presets import PROTECT
        >>> net = nn.Linear(2, 1)
        >>> watch = StepEngine(net, torch.optim.SGD(net.parameters(), lr=0.1), DETECTORS, PROTECT)
        >>> def step(x):
        ...     watch.begin()
        ...     loss = net(x).square().mean()
        ...     loss.backward()
        ...     report = watch.before_step([loss])
        ...     watch.optimizer.step()
        ...     watch.optimizer.zero_grad()
        ...     return report
        >>> step(torch.ones(4, 2)).actions
        ()
        >>> step(torch.full((4, 2), torch.nan)).actions
        ('skipped the step',)
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        detectors: Sequence[AbstractDetector],
        policy: Policy,
        *,
        clip: AbstractClip | None = None,
        batch: ForwardState | None = None,
        name: str = "",
        sample_every: int = 50,
        snapshot_every: int = 50,
        snapshots: int = 2,
        scaler: Any = None,
        scaled: bool = False,
        ranks: ProcessGroupInfo | None = None,
        defer: bool = False,
    ) -> None:
        self.module, self.optimizer, self.name = module, optimizer, name
        self.detectors, self.policy, self.clip = detectors, policy, clip
        self.batch = batch if batch is not None else ForwardState(module)
        self.sample_every, self.snapshot_every = sample_every, snapshot_every
        self.scaler, self.defer = scaler, defer
        self.lr_scale = LRFactor(optimizer)
        self.snapshots = Snapshots(module, optimizer, snapshots, scaler)
        self.collector = Collector(
            module, optimizer, self.batch, ranks or ProcessGroupInfo(), scaler if scaled else None
        )
        self.multiple_optimizers = False
        self.total_steps: int | None = None  # optimizer steps that the run is meant to take
        self.probes: ActivationProbe | None = None  # looks into a step's first batch, where the loop allows it
        self.look: ActivationStats | None = None  # the latest one
        self.first_look: ActivationStats | None = None  # the one at the initial weights
        self._curious = [d for d in detectors if type(d).wants_batch_stats is not AbstractDetector.wants_batch_stats]
        self.samples: Callable[[], BatchStats | None] | None = None  # looks at the samples of a suspicious step's batch
        self.course = RemedySearch(module, optimizer, self.lr_scale, self._rebuild) if policy.uses_search else None
        self.steps = 0
        self.states: dict[str, State] = {PROGRESS: INITIAL, **{d.name: d.init() for d in detectors}}
        self._limited = [name for name, state in self.states.items() if "limit" in state]
        self._skipping = [PROGRESS, *(d.name for d in detectors if d.ignore_cancelled)]
        self.clip_state: State = clip.init() if clip is not None else {}
        self.standing: LadderStates = {}
        self.episodes = IncidentTracker(name)
        self.changed: list[Incident] = []  # incidents that began, gained an action or ended in the last step
        self.damage, self.restored, self._cancelled, self._awaited = True, False, False, False
        self.snapshot_due = self.sample_due = 0
        self._evaluations = 0  # of the closure in this step; only LBFGS asks for more than one
        self._hooks = (
            optimizer.register_step_pre_hook(self._stepping),
            optimizer.register_step_post_hook(self._stepped),
        )

    def begin(self) -> None:
        """To be called before the forward pass of a step's first batch."""
        self.batch.save()
        self.open_look()

    def open_look(self) -> None:
        """Before a forward pass: begins a look inside when one is due."""
        if self.course is not None and self.steps == 0:
            self.course.remember()
        if self.probes is not None and self._look_due() and self.probes.possible:
            self.probes.open()

    def shut_look(self) -> None:
        """Between forward and backward pass: what runs from here on is not looked at."""
        if self.probes is not None:
            self.probes.shut()

    def _look_due(self) -> bool:
        wanted = self.course is not None and self.course.wants_look
        return wanted or look_due(self.steps, self.sample_every)

    def _read_look(self) -> ActivationStats | None:
        """What the look saw; with whole replicas the first process's, so that all of them judge the same one."""
        if self.probes is None:
            return None
        look = self.probes.read()
        ranks = self.collector.ranks
        return ranks.from_first(look) if self._look_due() and not ranks.alone else look

    def before_step(self, losses: Sequence[Tensor], divisor: float = 1.0) -> StepReport:
        """To be called when the gradients are ready: looks, judges, and acts on the step about to happen.

        Args:
            losses: The loss of each micro-batch, 0-d.
            divisor: What the losses were divided by before they were summed (gradient accumulation).
        """
        self._forget_scale()
        stats, followed = self._collect(losses, divisor)
        if self.course is not None and self.course.active:
            return self._treat(stats, self.course)
        self.look = stats.activation_stats or self.look
        self.first_look = self.look if self.steps == 0 else self.first_look
        stats = self._with_samples(stats)
        before = self.states
        self.states, findings = diagnose(self.detectors, {**before, PROGRESS: followed}, stats)
        self.standing, chosen = decide(self.standing, findings, self.policy)
        pending = self._pending(stats)
        if self.course is not None:
            self.course.observe(stats.loss)
        done = [(finding, act(finding, rung, pending)) for finding, rung in chosen] if chosen else []
        if pending.cancelled:
            self.states |= {name: before[name] for name in self._skipping}
        elif self.course is not None:
            self.course.adaptive.apply(pending.grad_scale)
        if self.clip is not None and not pending.cancelled:
            self.clip_state = self.clip.apply(self.clip_state, pending)
        self._follow(pending, chosen)
        named = [(finding, tuple(name for name, _ in deeds)) for finding, deeds in done] if done else []
        self.changed = self.episodes.update(named, self.standing, self.policy.calm)
        words = tuple(words for _, deeds in done for _, words in deeds) if done else ()
        limit = max([self.states[name]["limit"] for name in self._limited], default=math.nan)
        return StepReport(
            stats, findings, words, pending.clip_coefficient, pending.cancelled, self.lr_scale.current_factor(), limit,
            self.name, pending.stop_reason,
        )  # fmt: skip

    def _treat(self, stats: GradStats, course: RemedySearch) -> StepReport:
        """A step of a running course: its trials are judged by the course alone, the detectors rest."""
        pending, finding, tried = self._pending(stats), course.finding, course.trial
        words = course.follow(stats.loss, stats.clean, stats.activation_stats, pending.cancel)
        if words.startswith("kept"):
            self.look, pending.renewed = course.kept[-1].look, True
        if not pending.cancelled:
            course.adaptive.apply(pending.grad_scale)
        self._follow(pending, ())
        kept = course.kept[-1] if words.startswith("kept") else None
        name = kept.name if kept else course.trial if course.trial != tried else ""
        if words.startswith("none of") and course.by_hand:
            name = f"nothing helped; by hand: {course.by_hand}"
        cause = (Finding(kept.cause, stats.step, (), kept.level, detail=f"by trial, {words}"),) if kept else ()
        self.changed = self.episodes.update([(f, (name,)) for f in cause], self.standing, self.policy.calm)
        if finding is not None and finding.kind in self.episodes.incidents and name:
            self.changed += self.episodes.act(finding.kind, (name,))
        return StepReport(
            stats, cause, (words,) if words else (), 0.0 if pending.cancelled else 1.0, pending.cancelled,
            self.lr_scale.current_factor(), optimizer=self.name,
        )  # fmt: skip

    def _rebuild(self) -> None:
        """After modules were exchanged: names and buffers are looked up anew."""
        self.collector.rebuild()
        self.batch.rescan(self.module)

    def announce(self, losses: Sequence[Tensor], divisor: float = 1.0) -> None:
        """May be called just before the last backward pass, which then hides the processes' talk about the loss."""
        self.collector.announce(losses, divisor)

    @property
    def table(self) -> ParamTable:
        """The optimizer's parameters by layer."""
        return self.collector.table

    def _collect(self, losses: Sequence[Tensor], divisor: float) -> tuple[GradStats, State]:
        """The step's statistics, and what is remembered of the losses with this one."""
        measured, lr = self.collector.collect(losses, divisor), self.lr_scale.effective_lr()
        look, loss = self._read_look(), None if self.multiple_optimizers else measured["loss"]
        followed = follow(self.states[PROGRESS], loss, lr, self.total_steps, look)
        stats = GradStats(
            **measured, step=self.steps, lr=lr, multiple_optimizers=self.multiple_optimizers, restored=self.restored,
            total_steps=self.total_steps, loss_trend=judge(followed), activation_stats=look,
        )  # fmt: skip
        overflow = self.scaler is not None and overflowed(stats)
        return replace(stats, scaler_overflow=True) if overflow else stats, followed

    def _with_samples(self, stats: GradStats) -> GradStats:
        """The statistics with a look at the batch's samples if a detector asks for one; of all processes the worst."""
        if self.samples is None or not any(d.wants_batch_stats(self.states[d.name], stats) for d in self._curious):
            return stats
        look, ranks = self.samples(), self.collector.ranks
        return replace(stats, batch_stats=look if ranks.alone else worst_of(ranks.from_all(look)))

    def _pending(self, stats: GradStats) -> PendingStep:
        return PendingStep(
            self.optimizer, stats, self.lr_scale, self.snapshots, self.batch, self.collector.scaler, self.damage,
            self.collector.grad_scale, self.module, self.course, self.look, self.first_look,
            self.defer and self.scaler is None,
        )  # fmt: skip

    def _follow(self, pending: PendingStep, chosen: Sequence[tuple[Finding, Rung]]) -> None:
        """What follows from the step's fate: samples, snapshots, recovery of the learning rate."""
        stats, healthy = pending.stats, pending.stats.clean and not any(rung for _, rung in chosen)
        if pending.restored is not None:
            self.states = dict(pending.restored.memory)
            self.sample_due = self.steps
        if pending.renewed:
            improved = self.course is not None and self.course.improved
            after = {d.name: d.renew(self.states[d.name], improved) for d in self.detectors}
            self.states = {PROGRESS: renewed(self.states[PROGRESS], improved), **after}
            self.snapshots.ring, self.sample_due, self.snapshot_due = [], self.steps, self.steps
        self.restored = pending.restored is not None
        if healthy:
            self.lr_scale.recover()
            wanted = self.policy.uses_snapshots and self.steps >= self.snapshot_due
            if wanted and not any(state.get("hold_snapshots") for state in self.states.values()):
                self.snapshots.take(self.steps, dict(self.states))  # no detector changes the state it was given
                self.snapshot_due = next_multiple(self.steps, self.snapshot_every)
        if healthy or pending.restored is not None:
            self.damage = False
        self._cancelled = pending.cancelled
        due = self.steps >= self.sample_due or look_due(self.steps, self.sample_every)
        taken = not pending.cancelled and not stats.scaler_overflow
        # Several looks at one step (LBFGS's closures) leave no update to measure.
        sampled = due and taken and not self._awaited
        self._awaited = taken
        if self._evaluations == 0 or pending.cancelled:
            if sampled:
                same = self.snapshots.of(self.steps)
                self.collector.keep_weights(same.params if same is not None else None)
                self.sample_due = next_multiple(self.steps, self.sample_every)
            else:
                self.collector.forget_weights()
        self._evaluations += 1
        self.steps += 1

    def _stepping(self, *_: Any) -> None:
        self._evaluations = 0

    def _stepped(self, *_: Any) -> None:
        """The optimizer's post-hook: the step has really happened (a GradScaler may have skipped it)."""
        self.damage |= not self._cancelled
        self._awaited = False
        self._forget_scale()
        self.collector.measure_update()

    def _forget_scale(self) -> None:
        """No `grad_scale` outlives its step, also when that step was left by an exception."""
        if self.defer and self.scaler is None:
            forget_scale(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Everything a later decision depends on, as plain dicts, lists, numbers, strings and tensors."""
        return {
            "steps": self.steps,
            "detectors": to_checkpoint(self.states),
            "clip": to_checkpoint(self.clip_state),
            "standing": to_checkpoint(self.standing),
            "episodes": self.episodes.state_dict(),
            "lr_scale": self.lr_scale.state_dict(),
            "snapshot_due": self.snapshot_due,
            # A sample that the processes have not added up yet cannot be saved: it is taken again after a resume.
            "sample_due": self.steps if self.collector.waiting else self.sample_due,
            "sample": to_checkpoint(self.collector.sample),
            "damage": self.damage,
            "restored": self.restored,
            "course": self.course.state_dict() if self.course is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`; a detector that was not there then starts anew."""
        self.steps = int(state["steps"])
        known = from_checkpoint(state["detectors"])
        self.states |= {name: known[name] for name in self.states if name in known}
        self.clip_state = from_checkpoint(state["clip"]) or self.clip_state
        self.standing = from_checkpoint(state["standing"])
        self.episodes.load_state_dict(state["episodes"])
        self.lr_scale.load_state_dict(state["lr_scale"])
        self.snapshot_due, self.sample_due = int(state["snapshot_due"]), int(state["sample_due"])
        sample = from_checkpoint(state["sample"])
        self.collector.sample = (sample[0], sample[1]) if sample is not None else None
        self.damage, self.restored = bool(state["damage"]), bool(state["restored"])
        if self.course is not None and state.get("course"):
            self.course.load_state_dict(state["course"])

    def close(self) -> None:
        """Puts the learning rate back, removes the hooks and lets the snapshots go."""
        self.lr_scale.close()
        self._forget_scale()
        for hook in self._hooks:
            hook.remove()
        if self.probes is not None:
            self.probes.drop()
        self.snapshots.ring = []


def act(finding: Finding, rung: Rung, pending: PendingStep) -> list[tuple[str, str]]:
    """Applies a rung: the name of each remedy that did something, and what it did."""
    done = [(remedy.name, remedy.apply(finding, pending)) for remedy in rung]
    return [(name, words) for name, words in done if words]


def look_due(step: int, every: int) -> bool:
    """Looks inside come at steps 0, 1, 2, 4, 8 and so on, and at every multiple of `every`.

    Example:
        >>> [step for step in range(70) if look_due(step, 50)]
        [0, 1, 2, 4, 8, 16, 32, 50, 64]
    """
    return step % every == 0 or step & (step - 1) == 0


def overflowed(stats: GradStats) -> bool:
    """Whether a GradScaler will skip this step by itself: gradients overflowed and the loss did not."""
    return stats.loss_finite and not stats.finite


def next_multiple(step: int, every: int) -> int:
    """The first multiple of `every` after `step`: snapshots keep to the same steps whatever happened before.

    Example:
        >>> next_multiple(50, 50), next_multiple(51, 50)
        (100, 100)
    """
    return (step // every + 1) * every
