"""The engine of a run: one optimizer of one module in training, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.collect.activation_probe import ActivationProbe
from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.batch_stats import BatchStats, worst_of
from lightning_gradguard.collect.collector import Collector
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.layers import ParamTable
from lightning_gradguard.collect.sample_clock import SampleClock
from lightning_gradguard.collect.stats import Comparison
from lightning_gradguard.detectors import AbstractDetector
from lightning_gradguard.engine import StepEngine
from lightning_gradguard.findings import Origin, Restoration, StepReport
from lightning_gradguard.policy import Policy
from lightning_gradguard.record.packing import pack, unpack
from lightning_gradguard.record.step_log import activation_stats_of
from lightning_gradguard.remedies import AbstractClip, TryEach
from lightning_gradguard.step.actor import Actor
from lightning_gradguard.step.rerun import Indexed, Rerun
from lightning_gradguard.step.snapshot_state import load_snapshots, save_snapshots
from lightning_gradguard.tensors.checkpointing import from_checkpoint, to_checkpoint
from lightning_gradguard.tensors.processes import ProcessGroupInfo


@dataclass(frozen=True, kw_only=True, eq=False)
class RunContext:
    """Everything that an engine knows about its run from the start.

    Args:
        module: The module in training.
        optimizer: Only its parameters are watched.
        detectors: What to look for.
        policy: What to do about it.
        forward_state: What a forward pass changes; shared by all optimizers of a module. The module's own by default.
        clip: Clipping for every step, beside the policy's.
        groups: Groups of parameters whose gradient norms are measured: regular expressions by name.
        name: The optimizer's index when there are several; otherwise empty.
        total_steps: Optimizer steps that the run is meant to take; None when it has no end.
        multiple_optimizers: Whether other optimizers train the same module, so that its loss is not an objective.
        scaler: The GradScaler, if any.
        gradients_scaled: Whether gradients are still multiplied by the scaler's scale when the step begins (fused
            optimizers).
        processes: The processes that train together; this one alone by default.
        probe: Samples activation statistics, where the loop allows it.
        batch_stats: Measures the samples of a suspicious step's batch, where the loop allows it.
        origin: Tells when and where the present step is, for an incident that begins.
        recheck: Measures the last healthy batch again, where the loop allows it: its loss then and now.
        recent_losses: Measures the losses of the last batches with the present weights, where the loop allows it.
        first_nonfinite: Tells in which operation the present step first was not finite, where the loop allows it.
        rerun: Takes steps again, where remedies may be tried beside the run.
        explain: A policy whose remedies are tried beside the run and told, not applied; None for none.
        fused_clip: Whether a fused optimizer may clip as it reads the gradients, which saves a pass over them: only
            where nobody reads or clips them between `before_step` and the optimizer's step.
        averaged: Whether something averages the weights after every step, so that they must be finite then.
        sample_every: Steps between two samples of activation statistics and update-to-weight ratios.
        snapshot_every: Steps between two snapshots.
        snapshots: How many are kept.
    """

    module: nn.Module
    optimizer: Optimizer
    detectors: Sequence[AbstractDetector]
    policy: Policy
    forward_state: ForwardState | None = None
    clip: AbstractClip | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    total_steps: int | None = None
    multiple_optimizers: bool = False
    scaler: Any = None
    gradients_scaled: bool = False
    processes: ProcessGroupInfo = field(default_factory=ProcessGroupInfo)
    probe: ActivationProbe | None = None
    batch_stats: Callable[[], BatchStats | None] | None = None
    origin: Callable[[], Origin] = Origin
    recheck: Callable[[], tuple[float, float] | None] = lambda: None
    recent_losses: Callable[[], Sequence[float]] = tuple
    first_nonfinite: Callable[[], tuple[str, ...]] = tuple
    rerun: Rerun | None = None
    explain: Policy | None = None
    fused_clip: bool = False
    averaged: bool = False
    sample_every: int = 50
    snapshot_every: int = 50
    snapshots: int = 2


class RunEngine(StepEngine):
    """A `StepEngine` on a run: it measures the run's gradients and acts on its steps.

    Args:
        context: What it knows about the run.

    Example:
        >>> import torch
        >>> from lightning_gradguard.detectors import DETECTORS
        >>> from lightning_gradguard.policy import PROTECT
        >>> net = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> engine = RunEngine(RunContext(module=net, optimizer=optimizer, detectors=DETECTORS, policy=PROTECT))
        >>> def step(x):
        ...     engine.begin_batch()
        ...     loss = net(x).square().mean()
        ...     loss.backward()
        ...     report = engine.before_step([loss])
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     return [str(action) for action in report.actions]
        >>> step(torch.ones(4, 2))
        []
        >>> step(torch.full((4, 2), torch.nan))
        ['skipped the step']
    """

    actor: Actor
    source: RunSource

    def __init__(self, context: RunContext) -> None:
        self.module, self.optimizer = context.module, context.optimizer
        state = context.forward_state if context.forward_state is not None else ForwardState(context.module)
        self.forward_state = state
        scaler = context.scaler if context.gradients_scaled else None
        clipped = () if context.clip is None else context.clip.groups
        collector = Collector(
            context.module, context.optimizer, state, context.processes, scaler, context.groups, clipped
        )
        actor = Actor(
            context.module,
            context.optimizer,
            state,
            clip=context.clip,
            scaler=context.scaler,
            gradients_scaled=context.gradients_scaled,
            fused_clip=context.fused_clip,
            takes_snapshots=context.policy.uses_snapshots,
            snapshot_every=context.snapshot_every,
            snapshots=context.snapshots,
            rerun=context.rerun if context.policy.uses_search or context.explain else None,
            trials=(context.explain or context.policy).trials,
            explains=context.explain is not None,
            total_steps=context.total_steps,
            name=context.name,
            model_changed=self._look_up_modules,
            parts=lambda: {regex: part.params for regex, part in collector.parts.items()},
        )
        self._averaged, self._explain = context.averaged, context.explain
        self.restoration: Restoration | None = None  # the latest since the last step began
        self.clock = SampleClock(context.sample_every)
        self._sampled = False  # whether the update of the step about to happen is to be measured
        super().__init__(
            RunSource(context, collector, actor),
            context.detectors,
            context.policy,
            actor,
            name=context.name,
        )
        actor.guarded_step.before = [self.clock.step_begins]
        actor.guarded_step.happened = [self.clock.step_happened, self._step_happened]

    # ---------------------------------------------------------------- what the training loop calls, in order

    def begin_batch(self) -> None:
        """To be called before the forward pass of a step's first batch."""
        self.forward_state.save()
        self.begin_forward()

    def begin_forward(self) -> None:
        """The same without saving the forward state, which several optimizers share."""
        if self.steps == 0:
            self.actor.before_first_step()
        probe = self.source.probe
        if probe is not None and self.clock.is_due(self.steps) and probe.possible:
            probe.open()
            self.source.sampling = True

    def end_forward(self) -> None:
        """To be called between forward and backward pass: what runs from here on is not sampled."""
        if self.source.sampling and self.source.probe is not None:
            self.source.probe.shut()

    def announce(self, losses: Sequence[Tensor], divisor: float = 1.0) -> None:
        """May be called just before the last backward pass, which then hides the all-reduce of the loss."""
        self.source.collector.announce(losses, divisor)

    def before_step(self, losses: Sequence[Tensor], divisor: float = 1.0) -> StepReport:
        """To be called when the gradients are ready: measures, judges and acts on the step about to happen.

        Args:
            losses: The loss of each micro-batch, 0-d.
            divisor: What the losses were divided by before they were summed (gradient accumulation).
        """
        self.restoration = None
        report = self.step(losses, divisor)
        self._sample_update(report)
        if self._explain is not None:
            self._ask(report, self._explain)
        return report

    def _ask(self, report: StepReport, policy: Policy) -> None:
        """Asks what a policy would have asked about a step's findings."""
        for finding in report.findings:
            for remedy in (remedy for rung in policy.rungs.get(finding.kind, ()) for remedy in rung or ()):
                if isinstance(remedy, TryEach) and self.actor.checkup is not None:
                    self.actor.checkup.ask(remedy.question(finding))

    def keep(self, batches: Sequence[Indexed]) -> None:
        """May be called after `before_step`: the step's batches, for later experiments."""
        self.actor.keep(batches)

    def between_steps(self) -> None:
        """May be called when a step is over and the next has not begun: the place for an experiment."""
        if self.actor.checkup is not None:
            self.actor.checkup.between_steps(self.steps, self._level["best"])

    def _sample_update(self, report: StepReport) -> None:
        """Keeps the weights from before the step where its update is to be measured."""
        stats, outcome = report.stats, report.outcome
        if outcome.restored is not None or outcome.model_changed or outcome.trial is not None:
            self.clock.next_update = stats.step
        taken = not outcome.cancelled and not stats.scaler_overflow
        due = self.clock.update_is_due(stats.step, taken, outcome.cancelled)
        if due:
            self._sampled = True
            same = self.actor.snapshots.of(stats.step)
            self.source.collector.keep_weights(same.params if same is not None else None)
        elif due is not None and self._sampled:
            self._sampled = False
            self.source.collector.forget_weights()

    def _step_happened(self) -> None:
        """The step has really happened: nothing has cancelled it, and no GradScaler has skipped it."""
        self.actor.step_happened()
        if self._sampled:
            self._sampled = False
            self.source.collector.measure_update()
        if self._averaged:
            self.put_right()

    def put_right(self, at_end: bool = False) -> Restoration | None:
        self.restoration = super().put_right(at_end)
        return self.restoration

    # ---------------------------------------------------------------- the rest

    @property
    def table(self) -> ParamTable:
        """The optimizer's parameters by layer."""
        return self.source.collector.table

    def request_snapshot(self) -> None:
        """The next healthy step takes a snapshot."""
        self.actor.ask_for_snapshot(self.steps)

    def _look_up_modules(self) -> None:
        """After modules were exchanged: names and buffers are looked up again."""
        self.source.collector.rebuild()
        self.forward_state.rescan(self.module)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, as plain dicts, lists, numbers, strings and tensors."""
        collector = self.source.collector
        return {
            **super().state_dict(),
            "actor": self.actor.state_dict(),
            **self._incident_state(),
            "activation_stats": [
                pack(stats) for stats in (self.actor.first_activation_stats, self.actor.activation_stats)
            ],
            # A sample that the processes have not added up yet cannot be saved: it is taken again after a resume.
            "next_update": self.steps if collector.waiting else self.clock.next_update,
            "sample": to_checkpoint(collector.sample),
        }

    def _incident_state(self) -> dict[str, Any]:
        """What a rollback would put back, as long as one is to be expected: a healthy run's next step takes a snapshot.

        Snapshots of sharded weights are each process's own, and a checkpoint has the first one's callbacks only.
        """
        if not any(map(self._may_roll_back, {*self.ladders, *self.incidents.incidents})):
            return {"snapshots": None, "states_at": {}}
        if self.source.collector.sharded:
            return {"snapshots": {}, "states_at": {}}
        return {"snapshots": save_snapshots(self.actor.snapshots), "states_at": to_checkpoint(self._states_at)}

    def _may_roll_back(self, kind: str) -> bool:
        """Whether the ladder of a kind leads to a rollback."""
        return any(remedy.uses_snapshots for rung in self.policy.rungs.get(kind, ()) for remedy in rung or ())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`; the next healthy step takes a snapshot, as after saving."""
        super().load_state_dict(state)
        self.request_snapshot()

    def _loaders(self) -> dict[str, Callable[[Any], None]]:
        return {
            **super()._loaders(),
            "actor": self.actor.load_state_dict,
            "snapshots": self._load_snapshots,
            "states_at": self._load_states_at,
            "activation_stats": self._load_activation_stats,
            "next_update": self._load_next_update,
            "sample": self._load_sample,
        }

    def _load_snapshots(self, state: Any) -> None:
        if state is not None and self.policy.uses_snapshots:
            load_snapshots(self.actor.snapshots, state)

    def _load_states_at(self, states: Any) -> None:
        held = {snapshot.step for snapshot in self.actor.snapshots.ring}
        self._states_at = {int(at): self._states_from(of) for at, of in states.items() if int(at) in held}

    def _load_activation_stats(self, stats: Any) -> None:
        first, latest = (activation_stats_of(unpack(plain)) if plain is not None else None for plain in stats)
        self.actor.first_activation_stats, self.actor.activation_stats = first, latest

    def _load_next_update(self, step: Any) -> None:
        self.clock.next_update = int(step)

    def _load_sample(self, sample: Any) -> None:
        sample = from_checkpoint(sample)
        self.source.collector.sample = (sample[0], sample[1]) if sample is not None else None

    def close(self) -> None:
        """Puts the learning rate back, removes the hooks and lets the snapshots go."""
        self.incidents.origin = Origin
        self.actor.close()
        if self.source.probe is not None:
            self.source.probe.drop()


class RunSource:
    """Measures a run: gradients, loss, learning rate, activation statistics, and samples of a suspicious batch.

    Args:
        context: What is known about the run.
        collector: Reads gradients, losses and buffers.
        actor: Knows the learning rate that the step will use.

    Attributes:
        sampling: Whether activation statistics of the present step are being sampled.
    """

    def __init__(self, context: RunContext, collector: Collector, actor: Actor) -> None:
        self.collector, self.probe, self.sampling = collector, context.probe, False
        self._actor, self._batch_stats, self._scaler = actor, context.batch_stats, context.scaler
        self._recheck, self._recent_losses = context.recheck, context.recent_losses
        self._first_nonfinite = context.first_nonfinite
        self._processes, self._origin = context.processes, context.origin
        self._rank: int | None = None  # of the step's worst batch, in a run of several processes
        self._fixed = {"total_steps": context.total_steps, "multiple_optimizers": context.multiple_optimizers}

    def collect(self, losses: Sequence[Tensor], divisor: float) -> dict[str, Any]:
        """The step's measurements: fields of `GradStats`."""
        measured, self._rank = self.collector.collect(losses, divisor), None
        return {
            **measured,
            **self._fixed,
            "lr": self._actor.lr_factor.effective_lr(),
            "eps": eps_of(self.collector.optimizer),
            "weights_known_good": not self._actor.weights_changed,
            "activation_stats": self._activation_stats() if self.sampling else None,
            "scaler_overflow": self._scaler is not None and overflowed(**measured),
        }

    def _activation_stats(self) -> ActivationStats | None:
        """What was sampled; with whole replicas that of the first process, so that all of them judge the same."""
        assert self.probe is not None
        self.sampling = False
        stats = self.probe.read()
        return stats if self._processes.alone else self._processes.from_first(stats)

    def recheck(self) -> tuple[float, float] | None:
        """The loss of the last healthy batch when it was new and now; None where it cannot be measured again."""
        return self._recheck()

    def compare(self, best: bool = False, until: int | None = None) -> Comparison | None:
        """The last batches with the present weights and with those of a snapshot: the best, or the newest then."""
        snapshots = self._actor.snapshots
        snapshot = (snapshots.best if best else None) or snapshots.newest_until(until)
        if snapshot is None or not (now := self._recent_losses()):
            return None
        with snapshots.installed(snapshot):
            return comparison_of(now, self._recent_losses())

    def first_nonfinite(self) -> tuple[str, ...]:
        """The operation in which loss or gradient first were not finite; empty where that is not known."""
        return self._first_nonfinite()

    def nonfinite_state(self) -> tuple[str, ...]:
        """Layers whose weights or optimizer state are not finite, in any process."""
        return self.collector.nonfinite_state()

    def batch_stats(self) -> BatchStats | None:
        """The samples of the step's batch; of all processes those with the worst sample."""
        stats = self._batch_stats() if self._batch_stats is not None else None
        if self._processes.alone or self._batch_stats is None:
            return stats
        worst = worst_of(self._processes.from_all(stats))
        self._rank = worst.process if worst is not None else None
        return worst

    def origin(self) -> Origin:
        """When and where the present step is."""
        lr = self._actor.lr_factor.effective_lr()
        return replace(self._origin(), rank=self._rank, lr=lr if math.isfinite(lr) else None)


def comparison_of(now: Sequence[float], then: Sequence[float]) -> Comparison | None:
    """Losses of the same batches with the present weights and with earlier ones; None where some are not known.

    Example:
        >>> comparison_of([3.0, 3.5], [2.0, 2.0])
        (3.25, 2.0, 0.25)
    """
    if len(now) != len(then):
        return None
    differences = np.subtract(now, then)
    error = differences.std(ddof=1) / math.sqrt(len(now)) if len(now) > 1 else math.inf
    return float(np.mean(now)), float(np.mean(then)), float(error)


def eps_of(optimizer: Optimizer) -> float:
    """What Adam or RMSprop adds to the scale of the gradients; the smallest of all groups, 0 where one has none.

    Example:
        >>> import torch
        >>> weight = [torch.zeros(1, requires_grad=True)]
        >>> eps_of(torch.optim.AdamW(weight)), eps_of(torch.optim.SGD(weight)), eps_of(torch.optim.Adafactor(weight))
        (1e-08, 0.0, 0.0)
    """
    groups = optimizer.param_groups
    given = [group.get("eps") for group in groups if "betas" in group or "alpha" in group]
    numbers = [float(eps) for eps in given if isinstance(eps, (int, float))]
    return min(numbers, default=0.0) if len(numbers) == len(groups) else 0.0


def overflowed(grad_norm: Any, loss: float | None, **_: Any) -> bool:
    """Whether a GradScaler will skip this step by itself: gradients overflowed and the loss did not."""
    return (loss is None or math.isfinite(loss)) and not bool(np.isfinite(grad_norm).all())
