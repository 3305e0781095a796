"""GradGuard, the callback: five words a step, bound to Lightning's hooks. The only file of the core that imports it."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradguard.collect.activation_probe import ActivationProbe
from lightning_gradguard.collect.batch_stats import BatchStats, dataset_indices, find_bad_micro_batch, sample_sizes
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.detectors import AbstractDetector, list_detectors
from lightning_gradguard.engine import PROGRESS, StepEngine
from lightning_gradguard.findings import OPEN, Finding, Incident, StepReport
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.policy.presets import MONITOR, PRESETS
from lightning_gradguard.record.logbook import Logbook
from lightning_gradguard.record.report import Report
from lightning_gradguard.remedies import AbstractClip
from lightning_gradguard.tensors.processes import ProcessGroupInfo
from lightning_gradguard.trainer import (
    can_act,
    log_step,
    logged_metrics,
    planned_steps,
    ranks_of,
    reads_last,
    should_log,
    split_loggers,
    steps_now,
)

#: Findings remembered for `guard.findings`, and closed incidents for `guard.incidents`. Chosen.
FINDINGS_KEPT = 10_000
STATE_VERSION = 1
#: Kinds that the loss and the buffers tell, for when nothing else can be seen.
WITHOUT_GRADIENTS = ("nonfinite", "loss_spike", "exploding_buffer")


def _callback_bases() -> tuple[type, ...]:
    """`Callback` of every installed namespace: a class with both is at home in both Trainers and both CLIs."""
    bases = []
    for package in ("pytorch_lightning", "lightning.pytorch"):
        try:
            bases.append(importlib.import_module(package).Callback)
        except ImportError:
            continue
    return tuple(bases)


class GradGuard(*_callback_bases()):  # type: ignore[misc]
    """Watches every training step's gradients, repairs the run, and shows it in TensorBoard.

    Example::

        trainer = Trainer(callbacks=[GradGuard()])

    Put it last among the callbacks that change gradients. Each step, before the optimizer (and before Lightning's
    own clipping) uses the gradients, it measures one norm for each layer, asks the detectors, and lets the policy
    choose a remedy for what they found. A healthy run ends with bit-identical weights with and without it.

    Args:
        policy: `"monitor"` never touches anything; `"protect"` uses only remedies that can be undone (clip, skip,
            reduce the learning rate, roll back, stop); `"repair"` may also change the model; or a `Policy`.
        detectors: What to look for; when None the built-in detectors (`detectors.DETECTORS`), then those that other
            installed packages offer (`docs/extending.md`).
        clip: Adaptive clipping for every step (`AutoClip`, `ZClip` or `AGC`); none by default.
        name: Distinguishes several guards in one Trainer and in checkpoints.
        sample_every: Steps between two measurements of the update-to-weight ratio. Chosen.
        snapshot_every: Steps between two snapshots for rollback. Chosen: see the cost in `benchmarks/overhead.py`.
        snapshots: How many snapshots are kept in host memory, each about three times the weights under Adam. Chosen.
        record: Whether to keep every step's statistics on disk for `gradguard replay`.

    Raises:
        ValueError: If `policy` is unknown or names a kind that no detector reports, if two detectors share a name, or
            if a count is not positive.

    Attributes:
        findings: The last 10,000 findings.
        incidents: The last 10,000 incidents that are over, then the open ones.
    """

    def __init__(
        self,
        policy: Literal["monitor", "protect", "repair"] | Policy = "protect",
        detectors: Sequence[AbstractDetector] | None = None,
        clip: AbstractClip | None = None,
        name: str | None = None,
        sample_every: int = 50,
        snapshot_every: int = 50,
        snapshots: int = 2,
        record: bool = True,
    ) -> None:
        super().__init__()
        self.detectors = tuple(list_detectors() if detectors is None else detectors)
        self.policy = check_policy(policy, self.detectors)
        for field, value in {
            "sample_every": sample_every,
            "snapshot_every": snapshot_every,
            "snapshots": snapshots,
        }.items():
            if value < 1:
                raise ValueError(f"`GradGuard({field}=...)` must be at least 1, got {value!r}.")
        self.clip, self.name, self.record = clip, name, record
        self.sample_every, self.snapshot_every, self.snapshots = sample_every, snapshot_every, snapshots
        self._start()

    def __repr__(self) -> str:
        return f"GradGuard(policy={self.policy.name!r}, detectors={list(self.detectors)!r}, clip={self.clip!r})"

    def _start(self) -> None:
        """Forgets the last run."""
        self._engines: dict[int, StepEngine] = {}
        self._saved: dict[str, Any] = {}
        self._findings: deque[Finding] = deque(maxlen=FINDINGS_KEPT)
        self._closed: deque[Incident] = deque(maxlen=FINDINGS_KEPT)
        self._losses: list[Tensor] = []
        self._data: tuple[Any, int] | None = None  # the batch in training and its place in the epoch, -1 if not known
        self._drawn = 0  # batches of this epoch so far; a run that resumes within one draws them from the first again
        self._batch: ForwardState | None = None
        self._logbook: Logbook | None = None
        self._reports: dict[str, StepReport] = {}
        self._verdict = ""
        self._acts, self._last_reader, self._talks = True, False, False
        self._unseen_batches = 0

    # ---------------------------------------------------------------- what it has seen

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the detectors said, oldest first."""
        return tuple(self._findings)

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Closed incidents, then the open ones."""
        return (
            *self._closed,
            *(i for w in self._engines.values() for i in w.episodes.incidents.values() if i.outcome == OPEN),
        )

    def report(self) -> Report:
        """The run's story so far; `print(guard.report())`."""
        steps = max((watch.steps for watch in self._engines.values()), default=0)
        return Report(steps, tuple(sorted(self.incidents, key=lambda i: i.first_step)), self._verdict)

    # ---------------------------------------------------------------- Lightning's hooks

    @property
    def state_key(self) -> str:
        """Key in a checkpoint: depends on the name alone, so that a changed threshold keeps the state."""
        return f"GradGuard{{'name': {self.name!r}}}" if self.name else "GradGuard"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._start()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._batch = ForwardState(pl_module, lambda: logged_metrics(trainer))
        self._acts = can_act(trainer)
        policy = self.policy if self._acts else MONITOR
        if not self._acts:
            rank_zero_warn("DeepSpeed owns the gradients and the step: GradGuard only watches the loss here.")
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        several = len(trainer.optimizers) > 1
        ranks = ranks_of(trainer, pl_module)
        clip = self._clip_for(ranks) if policy is not MONITOR else None
        if policy.uses_search and (several or not ranks.alone):
            why = "with several optimizers, whose loss is no objective," if several else "in several processes"
            rank_zero_warn(f"GradGuard tries no cures {why}: it only protects the run.")
            policy = policy.without_trials
        detectors = self.detectors if self._acts else [d for d in self.detectors if d.kind in WITHOUT_GRADIENTS]
        for index, optimizer in enumerate(trainer.optimizers):
            watch = StepEngine(
                pl_module, optimizer, detectors, policy, clip=clip, ranks=ranks, batch=self._batch,
                name=str(index) if several else "", sample_every=self.sample_every,
                snapshot_every=self.snapshot_every, snapshots=self.snapshots, scaler=scaler,
                scaled=scaler is not None and bool(getattr(optimizer, "_step_supports_amp_scaling", False)),
            )  # fmt: skip
            watch.multiple_optimizers, watch.total_steps = several, planned_steps(trainer)
            watch.samples = partial(self._samples, trainer, pl_module)
            if not several and pl_module.automatic_optimization and not watch.collector.sharded:
                watch.probes = ActivationProbe(pl_module)
            if watch.name in self._saved.get("watches", {}):
                watch.load_state_dict(self._saved["watches"][watch.name])
            self._engines[id(optimizer)] = watch
        closed = self._saved.get("incidents", ())
        self._closed = deque((Incident.from_dict(plain) for plain in closed), FINDINGS_KEPT)
        if getattr(trainer, "gradient_clip_val", None):
            rank_zero_warn(
                f"`Trainer(gradient_clip_val={trainer.gradient_clip_val})` clips after GradGuard: the smaller bound "
                "wins, and the norms logged here are from before both."
            )
        self._last_reader, self._talks = reads_last(self, trainer, pl_module), not ranks.alone
        self._logbook = self._open_logbook(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._drawn = self._drawn + 1 if batch_idx else 1
        self._data = batch, batch_idx if self._drawn == batch_idx + 1 else -1
        if not self._losses and self._batch is not None:
            self._batch.save()
            for watch in self._engines.values():
                watch.open_look()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        for watch in self._engines.values():
            watch.shut_look()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = getattr(scaler, "_scale", None)
        self._losses.append(loss.detach().float() / scale if scale is not None else loss.detach())
        if self._talks and len(self._engines) == 1 and pl_module.automatic_optimization and steps_now(trainer):
            next(iter(self._engines.values())).announce(self._losses, trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        watch = self._engines.get(id(optimizer))
        if watch is None or not (self._acts or steps_now(trainer)):  # DeepSpeed calls for every micro-batch
            return
        divisor = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        watch.defer = self._last_reader and not trainer.gradient_clip_val
        report = watch.before_step(self._losses, divisor)
        self._losses = []
        self._reports[watch.name] = report
        self._findings.extend(report.findings)
        self._closed += [incident for incident in watch.changed if incident.outcome != OPEN]
        if report.stop_reason:
            self._verdict = report.stop_reason
            trainer.should_stop = True
        if self._logbook is not None:
            self._logbook.step(report)
            if watch.changed:
                self._logbook.write(report, log_step(trainer))
            for incident in watch.changed:
                self._logbook.incident(incident, log_step(trainer))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._data = None
        self._notice_unseen_steps(pl_module)
        if self._logbook is not None and should_log(trainer):
            for report in self._reports.values():
                self._logbook.write(report, log_step(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._finish(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._finish(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._release()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        # A checkpoint is also a point to roll back to, so that a resumed run rolls back to where this one would.
        for watch in self._engines.values():
            watch.snapshot_due = watch.steps

    def state_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers, strings and tensors, with a version."""
        if not self._engines:
            return self._saved
        return {
            "version": STATE_VERSION,
            "watches": {watch.name: watch.state_dict() for watch in self._engines.values()},
            "incidents": [incident.to_dict() for incident in self._closed],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes effect in `on_train_start`, when the optimizers are there."""
        if state_dict.get("version") != STATE_VERSION:
            rank_zero_warn(
                f"The checkpoint's GradGuard state has version {state_dict.get('version')!r}; starting afresh."
            )
            return
        self._saved = state_dict
        for watch in state_dict["watches"].values():
            watch["snapshot_due"] = watch["steps"]

    def __getstate__(self) -> dict[str, Any]:
        # The Trainer puts `log` and `log_dict` on every callback; they hold the whole module.
        kept = {key: value for key, value in self.__dict__.items() if key not in ("log", "log_dict")}
        fresh: dict[str, Any] = dict(_engines={}, _losses=[], _data=None, _batch=None, _logbook=None, _reports={})
        return {**kept, **fresh, "_saved": self.state_dict(), "_closed": deque(self.incidents, FINDINGS_KEPT)}

    # ---------------------------------------------------------------- behind the hooks

    def _open_logbook(self, trainer: Any) -> Logbook | None:
        home = Path((trainer.log_dir if trainer.loggers else None) or trainer.default_root_dir)  # a collective call
        if not trainer.is_global_zero:
            return None
        nowhere = trainer.fast_dev_run or not (trainer.loggers or home != Path.cwd())  # leave no files behind unasked
        recorded = [watch.name for watch in self._engines.values()] if self.record and trainer.loggers else []
        return Logbook(None if nowhere else home, *split_loggers(trainer), recorded)

    def _samples(self, trainer: Any, pl_module: Any) -> BatchStats | None:
        """The samples of the batch in training, for a step that is suspicious."""
        if self._data is None:
            return None
        batch, position = self._data
        of = len(self._losses) if pl_module.automatic_optimization and trainer.accumulate_grad_batches > 1 else 1
        micro = find_bad_micro_batch([float(loss) for loss in self._losses]) if of > 1 else -1
        if 0 <= micro < of - 1:
            return BatchStats(micro_batch=micro, micro_batches=of)
        size = sample_sizes(batch)
        indices = dataset_indices(trainer.train_dataloader, position) if position >= 0 else ()
        return BatchStats(size, indices if len(indices) == len(size) else (), of - 1, of)

    def _clip_for(self, ranks: ProcessGroupInfo) -> AbstractClip | None:
        if self.clip is not None and self.clip.unitwise and ranks.flattened:
            rank_zero_warn(f"{self.clip} needs whole rows of weights, which FSDP1 flattens: it is left out. Use FSDP2.")
            return None
        return self.clip

    def _notice_unseen_steps(self, pl_module: Any) -> None:
        if self._reports or pl_module.automatic_optimization:
            return
        self._unseen_batches += 1
        if self._unseen_batches == 20:
            rank_zero_warn(
                "20 batches of manual optimization ended without one optimizer step that GradGuard could see. Use "
                "`self.optimizers()` without `use_pl_optimizer=False`, and step those."
            )

    def _finish(self, trainer: Any) -> None:
        if self._logbook is not None:
            self._logbook.close(self.report(), log_step(trainer))
        self._release()

    def _release(self) -> None:
        """Removes every hook and lets go of the module's extras; what was seen stays readable."""
        for watch in self._engines.values():
            watch.close()
        self._batch = self._logbook = self._data = None
        self._losses = []


def check_policy(policy: str | Policy, detectors: Sequence[AbstractDetector]) -> Policy:
    """The policy as a value, held against the detectors."""
    for detector in detectors:
        if not isinstance(detector, AbstractDetector):
            raise ValueError(f"`GradGuard(detectors=...)` must hold detectors, got {detector!r}.")
    names = [PROGRESS, *(detector.name for detector in detectors)]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"`GradGuard(detectors=...)` must have different names, got {doubled[0]!r} twice; set `name`.")
    if isinstance(policy, str):
        if policy not in PRESETS:
            raise ValueError(f"`GradGuard(policy=...)` must be one of {sorted(PRESETS)} or a Policy, got {policy!r}.")
        return PRESETS[policy]
    if not isinstance(policy, Policy):
        raise ValueError(f"`GradGuard(policy=...)` must be one of {sorted(PRESETS)} or a Policy, got {policy!r}.")
    kinds = sorted({detector.kind for detector in detectors})
    for kind in policy.ladders:
        if kind not in kinds:
            raise ValueError(
                f"`GradGuard(policy=...)` names {kind!r}, but no detector reports it; they report: {', '.join(kinds)}."
            )
    return policy
