"""GradGuard, the callback: Lightning's hooks and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from html import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradguard.alerts import Alert, Announcer
from lightning_gradguard.arguments import require, require_number
from lightning_gradguard.collect.activation_probe import ActivationProbe
from lightning_gradguard.collect.batch_stats import BatchStats, find_bad_micro_batch, sample_sizes
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.groups import check_groups, check_matches, parameter_names
from lightning_gradguard.collect.loss_level import LOSS_LEVEL
from lightning_gradguard.detectors import AbstractDetector, list_detectors
from lightning_gradguard.findings import PREFIX, Finding, Incident, StepReport
from lightning_gradguard.policy import MONITOR, REPAIR, Policy, check_policy
from lightning_gradguard.record.bad_batches import BadBatches
from lightning_gradguard.record.histograms import Histograms
from lightning_gradguard.record.homes import home_of, warn_about_another_run
from lightning_gradguard.record.incident_table import Incidents
from lightning_gradguard.record.location import location_of
from lightning_gradguard.record.logbook import Logbook
from lightning_gradguard.record.report import OUTCOMES, Report
from lightning_gradguard.record.run_record import RunRecord, SharedRecord
from lightning_gradguard.remedies import AbstractClip
from lightning_gradguard.remedies.group_clip import as_clip
from lightning_gradguard.run_engine import RunContext, RunEngine
from lightning_gradguard.step.model_changes import CodeChange, changes_of, follow_changes
from lightning_gradguard.step.rerun import Indexed, RecentBatches, Rerun
from lightning_gradguard.tensors.checkpointing import load_parts
from lightning_gradguard.tensors.copies import optimizer_params
from lightning_gradguard.tensors.processes import ProcessGroupInfo
from lightning_gradguard.trainer import (
    averages_weights,
    callback_classes,
    follow_training_data,
    histogram_writers,
    is_last_reader,
    leave_training_data,
    log_step,
    logged_metrics,
    metrics_of,
    origin_of,
    owns_the_step,
    planned_steps,
    processes_of,
    should_log,
    split_loggers,
    steps_now,
    training_indices,
    versions,
)

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

#: Findings kept for `guard.findings`, and closed incidents for `guard.incidents`. Chosen.
FINDINGS_KEPT = 10_000
STATE_VERSION = 2
#: Kinds that loss and buffers tell, for where no gradients can be seen.
WITHOUT_GRADIENTS = ("nonfinite", "loss_spike", "exploding_buffer")


class GradGuard(*callback_classes()):  # type: ignore[misc]
    r"""Watches every training step's gradients, repairs the run, and logs everything to TensorBoard.

    Example::

        trainer = Trainer(callbacks=[GradGuard()])

    Put it last among the callbacks that change gradients. Each step, before the optimizer (and before Lightning's
    own clipping) uses the gradients, it measures one norm for each layer, runs the detectors, and applies the remedies
    that the policy chooses for their findings. A healthy run ends with bit-identical weights with and without it.
    Without a logger it writes no files, unless it is given a `log_dir`.

    Libraries that train with deep copies of their callbacks: a guard that has not run itself shows the run of the copy
    that began last. Each guard that has run shows its own run.

    Args:
        policy: Which actions are allowed. `"monitor"` never touches the run; `"protect"` clips, skips steps, reduces
            the learning rate, rolls back and stops; `"repair"` may also change the model; or a `Policy`.
        detectors: What to look for; when None the built-in detectors (`detectors.DETECTORS`), then those that other
            installed packages offer (`docs/extending.md`).
        clip: Adaptive clipping for every step (`AutoClip`, `ZClip` or `AGC`); none by default. A mapping has a clip for
            each regular expression, over the parameters whose names match it: `{r"^encoder\.": ZClip()}`.
        name: Distinguishes several guards in one Trainer, in checkpoints and on disk, where a guard with a name writes
            into `gradguard/NAME/` of the logger's directory.
        sample_every: Steps between two samples of the update-to-weight ratio and of activation statistics. Default
            chosen.
        snapshot_every: Steps between two snapshots for rollback. Default chosen: see the cost in
            `benchmarks/overhead.py`.
        snapshots: How many snapshots are kept in host memory, each about three times the weights under Adam. Default
            chosen.
        explain: Whether, under a policy that does not repair, the experiments of `"repair"` are made beside the run to
            say what would be better (`docs/repair.md`). The run is not touched by them.
        record: Whether to keep every step's statistics on disk for `gradguard replay`.
        save_bad_batches: A directory for the batches of the first 20 skipped steps, and for a list of the samples to
            exclude from the next run (`docs/bad_batches.md`); by default none are kept.
        on_incident: What is called with an `Incident` and the Trainer when the incident begins and when it ends, in
            every process: one callable or several, such as those of `lightning_gradguard.alerts`.
        histograms_every: Steps between two histograms of each layer's gradients (before any clipping) and updates, in
            TensorBoard and W&B; by default there are none.
        log_dir: The directory of this run's recording and incidents, which may be remote, in place of the logger's.
            With it they are written without a logger, too. A resumed run goes on in it; other runs need their own.
        groups: Groups of parameters whose gradient norms are logged as `gradguard/grad_norm/NAME`: a regular expression
            for each name, searched for in the names of the parameters, e.g. `{"head": r"^head\."}`.

    Raises:
        ValueError: If `policy` is unknown or names a kind that no detector reports, if two detectors share a name, if
            `clip` is no `AbstractClip`, if a count is not a positive whole number, or if what `on_incident` holds
            cannot be called; before training, if a regular expression matches no parameter, or the same as another.

    Attributes:
        findings: The last 10,000 findings.
        incidents: The last 10,000 closed incidents, then the open ones.
        changes: What remedies have changed in model and optimizer, each with the code that makes the change.
        last_report: The latest `StepReport`; None before the first step.
    """

    #: Key of the state in a checkpoint.
    state_key: str = "GradGuard"

    def __init__(
        self,
        policy: Literal["monitor", "protect", "repair"] | Policy = "protect",
        detectors: Sequence[AbstractDetector] | None = None,
        clip: AbstractClip | Mapping[str, AbstractClip] | None = None,
        name: str | None = None,
        sample_every: int = 50,
        snapshot_every: int = 50,
        snapshots: int = 2,
        explain: bool = False,
        record: bool = True,
        save_bad_batches: str | Path | None = None,
        on_incident: Alert | Sequence[Alert] | None = None,
        histograms_every: int | None = None,
        log_dir: str | Path | None = None,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        join_namespaces()
        self.detectors = tuple(list_detectors() if detectors is None else detectors)
        self.policy = check_policy(policy, self.detectors)
        counts = {"sample_every": sample_every, "snapshot_every": snapshot_every, "snapshots": snapshots}
        counts |= {} if histograms_every is None else {"histograms_every": histograms_every}
        for field, value in counts.items():
            require_number(f"GradGuard({field}=...)", value, at_least=1, whole=True)
        self.clip, self.groups = as_clip("GradGuard(clip=...)", clip), check_groups("GradGuard(groups=...)", groups)
        require(name is None or isinstance(name, str), "GradGuard(name=...)", "must be text", name)
        for field, folder in {"save_bad_batches": save_bad_batches, "log_dir": log_dir}.items():
            fits = folder is None or (isinstance(folder, (str, Path)) and str(folder) != "")
            require(fits, f"GradGuard({field}=...)", "must be a directory", folder)
        require(isinstance(explain, bool), "GradGuard(explain=...)", "must be True or False", explain)
        given = () if on_incident is None else on_incident
        alerts = tuple(given) if isinstance(given, Sequence) else (given,)
        require(all(map(callable, alerts)), "GradGuard(on_incident=...)", "must be callable, or several", on_incident)
        self.explain, self.on_incident = explain, alerts
        self.name, self.record, self.save_bad_batches = name, record, save_bad_batches
        # Depends on the name alone, so that a changed threshold keeps the state. Lightning asks for it at every hook.
        self.state_key = f"GradGuard{{'name': {name!r}}}" if name else "GradGuard"
        self._prefix = f"{PREFIX}/{name}" if name else PREFIX
        self.sample_every, self.snapshot_every, self.snapshots = sample_every, snapshot_every, snapshots
        self.histograms_every, self.log_dir = histograms_every, log_dir
        self._record: RunRecord | None = None  # of its own latest run
        self._shared = SharedRecord(RunRecord(FINDINGS_KEPT))
        self._reset()

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        return f"GradGuard(policy={self.policy.name!r}, {len(self.detectors)} detectors, clip={self.clip!r}{name})"

    def _reset(self) -> None:
        """Before a run: nothing is left of the last one."""
        self._engines: dict[int, RunEngine] = {}
        self._saved: dict[str, Any] = {}
        self._losses: list[Tensor] = []
        self._data: tuple[Any, int] | None = None  # the batch in training and its place among those drawn
        self._bad_batches: BadBatches | None = None
        self._window: list[Indexed] = []  # the step's batches, where somebody keeps them
        self._keeps_window = False
        self._recent: RecentBatches | None = None
        self._batch_idx = 0  # of the batch in training, in the epoch
        self._drawn = 0  # batches of this epoch so far; a run that resumes within one draws them from the first again
        self._forward_state: ForwardState | None = None
        self._logbook: Logbook | None = None
        self._histograms: dict[str, Histograms] = {}  # of each optimizer, on request
        self._announcer = Announcer(())
        self._reports: dict[str, StepReport] = {}  # the latest of each optimizer
        self._unfollow: Callable[[], None] = do_nothing
        self._acts, self._reduces_loss = True, False
        self._unseen_batches = 0
        self._planned: int | None = None

    # ---------------------------------------------------------------- what it has seen

    @property
    def _seen(self) -> RunRecord:
        return self._record or self._shared.latest

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the detectors reported, oldest first."""
        return tuple(self._seen.findings)

    @property
    def incidents(self) -> Incidents:
        """Closed incidents, then the open ones: a tuple, which a notebook shows as a table."""
        return self._seen.incidents

    @property
    def changes(self) -> tuple[CodeChange, ...]:
        """What remedies have changed in model and optimizer for the rest of the run, as code for the next run."""
        return tuple(self._seen.changes)

    @property
    def last_report(self) -> StepReport | None:
        """What was measured, found and done in the latest step; of the latest optimizer where there are several."""
        return self._seen.last_report

    def report(self) -> Report:
        """The run so far; `print(guard.report())`. A notebook shows it as a table."""
        return self._seen.report()

    def plot(self, optimizer: str = "", dark: bool = False) -> go.Figure:
        """The figure of the TensorBoard tab, as a plotly figure: layers by step, and the curves with the incidents.

        It is drawn from the files in the run's directory, so it needs a logger or `GradGuard(log_dir=...)`.

        Args:
            optimizer: The optimizer's index, e.g. `"0"`, when there are several.
            dark: Whether the page is dark.

        Raises:
            ValueError: If no steps of this optimizer are recorded.
        """
        from lightning_gradguard.show.notebook import draw_run

        return draw_run(self._seen.home, optimizer, dark)

    def to_pandas(self, optimizer: str = "") -> pandas.DataFrame:
        """Loss, learning rate, gradient norm, and one column `grad_norm/<layer>` for each layer, by step.

        It is read from the files in the run's directory, so it needs a logger or `GradGuard(log_dir=...)`.

        Args:
            optimizer: The optimizer's index, e.g. `"0"`, when there are several.

        Raises:
            ValueError: If no steps of this optimizer are recorded.
            ImportError: If pandas is not installed.
        """
        from lightning_gradguard.show.notebook import read_table

        return read_table(self._seen.home, optimizer)

    def _repr_html_(self) -> str:
        return f"<code>{escape(repr(self))}</code>{self.report()._repr_html_()}"

    # ---------------------------------------------------------------- Lightning's hooks

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._reset()
            self._record = self._shared.latest = RunRecord(FINDINGS_KEPT)
            follow_training_data(trainer)
        self._unfollow = follow_changes(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._acts = not owns_the_step(trainer)
        if not self._acts:
            rank_zero_warn("DeepSpeed owns the gradients and the step: GradGuard only watches the loss here.")
        self._check_groups(pl_module)
        processes, self._planned = processes_of(trainer, pl_module), planned_steps(trainer)
        self._forward_state = ForwardState(pl_module, partial(logged_metrics, trainer))
        self._engines = {
            id(context.optimizer): RunEngine(context) for context in self._contexts(trainer, pl_module, processes)
        }
        self._seen.changes = changes_of(pl_module)
        if self._saved:
            load_parts(
                self._saved,
                {"engines": self._load_engines, "incidents": self._load_incidents, "changes": self._load_changes},
            )
        self._seen.trackers = [engine.incidents for engine in self._engines.values()]
        self._announcer = Announcer(self.on_incident, self._seen.incidents)
        self._seen.steps = max((engine.steps for engine in self._engines.values()), default=0)
        if getattr(trainer, "gradient_clip_val", None):
            rank_zero_warn(
                f"`Trainer(gradient_clip_val={trainer.gradient_clip_val})` clips after GradGuard: the smaller bound "
                "wins, and the norms logged here are from before both."
            )
        one = len(self._engines) == 1 and pl_module.automatic_optimization
        self._reduces_loss = one and not processes.alone
        self._logbook = self._open_logbook(trainer)
        self._histograms = self._open_histograms(trainer, processes)
        self._publish(trainer)
        directory = location_of(self.save_bad_batches) if self.save_bad_batches is not None else None
        self._bad_batches = BadBatches(directory, trainer.global_rank) if directory is not None else None

    def _contexts(self, trainer: Any, pl_module: Any, processes: ProcessGroupInfo) -> list[RunContext]:
        """What each optimizer's engine has to know."""
        several = len(trainer.optimizers) > 1
        whole = processes.alone or processes.replicas(chain.from_iterable(map(optimizer_params, trainer.optimizers)))
        policy = self.policy if self._acts else MONITOR
        automatic = pl_module.automatic_optimization
        if policy.uses_search and (several or not whole or not automatic):
            reasons = (
                (several, "with several optimizers: no single loss can rank remedies"),
                (not whole, "with sharded weights: experiments are not supported there"),
                (not automatic, "with manual optimization: its steps cannot be taken again"),
            )
            why = next(why for applies, why in reasons if applies)
            rank_zero_warn(f"GradGuard: policy={policy.name!r} acts like 'protect' {why}.")
            policy = policy.without_search
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        last = is_last_reader(self, trainer, pl_module) and not trainer.gradient_clip_val
        clip = self._clip_for(processes) if policy.allows_actions else None
        detectors = [d for d in self.detectors if self._acts or d.kind in WITHOUT_GRADIENTS]
        samples = not several and automatic
        again: dict[str, Any] = {}
        explain = REPAIR if self.explain and not policy.uses_search and samples and whole else None
        if (policy.uses_snapshots or policy.uses_search or explain) and samples and whole:
            rerun = Rerun(trainer, pl_module, partial(logged_metrics, trainer), processes)
            self._recent = RecentBatches(rerun)
            again = {"recheck": self._recent.recheck, "recent_losses": self._recent.losses, "rerun": rerun}
            again["first_nonfinite"] = partial(self._first_nonfinite, rerun)
        self._keeps_window = policy.uses_search or explain is not None or self.save_bad_batches is not None
        return [
            RunContext(
                module=pl_module,
                optimizer=optimizer,
                detectors=detectors,
                policy=policy,
                forward_state=self._forward_state,
                clip=clip,
                groups=self.groups,
                name=str(index) if several else "",
                total_steps=self._planned,
                multiple_optimizers=several,
                scaler=scaler,
                gradients_scaled=scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False),
                processes=processes,
                probe=ActivationProbe(pl_module)
                if samples and not processes.sharded(optimizer_params(optimizer))
                else None,
                batch_stats=partial(self._batch_stats, trainer, pl_module),
                origin=partial(origin_of, trainer),
                **again,
                explain=explain,
                fused_clip=last,
                averaged=averages_weights(trainer),
                sample_every=self.sample_every,
                snapshot_every=self.snapshot_every,
                snapshots=self.snapshots,
            )
            for index, optimizer in enumerate(trainer.optimizers)
        ]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._drawn, self._batch_idx = self._drawn + 1 if batch_idx else 1, batch_idx
        self._data = batch, self._drawn - 1
        if self._keeps_window:
            self._window = [*self._window, (batch, batch_idx)] if self._losses else [(batch, batch_idx)]
        if not self._losses and self._forward_state is not None:
            self._forward_state.save()
            for engine in self._engines.values():
                engine.begin_forward()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        for engine in self._engines.values():
            engine.end_forward()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = getattr(scaler, "_scale", None)
        self._losses.append(loss.detach().float() / scale if scale is not None else loss.detach())
        if self._reduces_loss and steps_now(trainer):
            next(iter(self._engines.values())).announce(self._losses, trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        engine = self._engines.get(id(optimizer))
        if engine is None or not (self._acts or steps_now(trainer)):  # DeepSpeed calls for every micro-batch
            return
        by_hand = len(self._losses) if getattr(trainer, "divided_by_hand", False) else 1
        divisor = trainer.accumulate_grad_batches if pl_module.automatic_optimization else by_hand
        if self._histograms:
            self._histograms[engine.name].begin(engine.steps, log_step(trainer), engine.source.collector.grad_scale)
        report = self._reports[engine.name] = engine.before_step(self._losses, divisor)
        if self._recent is not None and self._data is not None and self._losses:
            self._recent.add(self._data[0], self._batch_idx, self._losses[-1], divisor, report)
        self._losses = []
        if report.outcome.stop_reason:
            trainer.should_stop = True
        engine.keep(self._window)
        if self._bad_batches is not None:
            self._bad_batches.add(report, [batch for batch, _ in self._window])
        self._take_in(trainer, engine, report)  # last, because an alert may raise

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._data = None
        if not self._losses:
            self._window = []
        for engine in self._engines.values():
            if not self._losses:  # else gradients are being accumulated
                engine.between_steps()
            if engine.steps == self._planned:  # before the last validation and the last checkpoint
                engine.put_right(at_end=True)
        self._take_in_restorations(trainer)
        self._notice_unseen_steps(pl_module)
        if should_log(trainer):
            self._publish(trainer)
            if self._logbook is not None:
                self._logbook.write()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        for engine in self._engines.values():
            if engine.steps != self._planned:  # the run ends early
                engine.put_right(at_end=True)
        self._take_in_restorations(trainer)
        self._finish(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._finish(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        leave_training_data(trainer)
        self._release()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        # A checkpoint is also a point to roll back to, so that a resumed run rolls back to where this one would. Where
        # the checkpoint holds the weights themselves and no copies of them, what is put right here is right in it.
        for engine in self._engines.values():
            engine.put_right()
            engine.request_snapshot()
        self._take_in_restorations(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers, strings and tensors, with a version."""
        if not self._engines:
            return self._saved
        return {
            "version": STATE_VERSION,
            "engines": {engine.name: engine.state_dict() for engine in self._engines.values()},
            "incidents": [incident.to_dict() for incident in self._seen.closed],
            "changes": [asdict(change) for change in self._seen.changes],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes effect in `on_train_start`, when the optimizers are there."""
        if state_dict.get("version") != STATE_VERSION:
            rank_zero_warn(
                f"The checkpoint's GradGuard state has version {state_dict.get('version')!r}, this release reads "
                f"{STATE_VERSION}: the guard starts without it."
            )
            return
        self._saved = state_dict

    def _load_engines(self, states: dict[str, Any]) -> None:
        for engine in self._engines.values():
            if engine.name in states:
                engine.load_state_dict(states[engine.name])
        if states.keys() != {engine.name for engine in self._engines.values()}:
            count, now = len(states), len(self._engines)
            rank_zero_warn(f"The checkpoint has GradGuard's state for {count} optimizers, the run has {now}.")

    def _load_incidents(self, saved: list[dict[str, Any]]) -> None:
        self._seen.closed.extend([Incident.from_dict(plain) for plain in saved])

    def _load_changes(self, saved: list[dict[str, Any]]) -> None:
        if saved:
            self._seen.changes[:] = [CodeChange(**plain) for plain in saved]

    def __getstate__(self) -> dict[str, Any]:
        # The Trainer puts `log` and `log_dict` on every callback; they hold the whole module.
        kept = {key: value for key, value in self.__dict__.items() if key not in ("log", "log_dict")}
        fresh: dict[str, Any] = dict(
            _engines={}, _losses=[], _data=None, _forward_state=None, _logbook=None, _reports={}, _unfollow=do_nothing,
            _histograms={}, _bad_batches=None, _window=[], _recent=None, _announcer=Announcer(()),
        )  # fmt: skip
        return {**kept, **fresh, "_saved": self.state_dict()}

    # ---------------------------------------------------------------- behind the hooks

    def _directory(self, trainer: Any) -> str | Path | None:
        """The run's directory; None where no files are written."""
        if trainer.fast_dev_run:
            return None
        if self.log_dir is not None:
            return self.log_dir
        return trainer.log_dir if trainer.loggers else None  # a collective call

    def _open_logbook(self, trainer: Any) -> Logbook | None:
        directory = self._directory(trainer)
        if not trainer.is_global_zero:
            return None
        run, guard = location_of(directory) if directory else None, self.name or ""
        recorded = [engine.name for engine in self._engines.values()] if self.record else []
        boards = split_loggers(trainer, guard)
        home = None if run is None else home_of(run, guard)
        if home is not None and self.log_dir is not None and not trainer.global_step:
            warn_about_another_run(home)
        self._seen.home = "" if home is None else str(home)
        logbook = Logbook(home, *boards, recorded, guard, versions())
        layers = sum(len(engine.table.layers) for engine in self._engines.values())
        logbook.console.begin(layers, self.policy.name, self._seen.home)
        return logbook

    def _open_histograms(self, trainer: Any, processes: ProcessGroupInfo) -> dict[str, Histograms]:
        """What measures histograms, in the first process, where a logger shows them."""
        if self.histograms_every is None or self._logbook is None or not (writers := histogram_writers(trainer)):
            return {}
        if any(processes.sharded(optimizer_params(optimizer)) for optimizer in trainer.optimizers):
            rank_zero_warn("GradGuard(histograms_every=...) writes no histograms of sharded weights.")
            return {}
        write = partial(self._logbook.histograms, writers)
        made = {}
        for engine in self._engines.values():
            prefix = f"{self._prefix}/{engine.name}" if engine.name else self._prefix
            table = partial(getattr, engine, "table")  # another one after a change of the model
            made[engine.name] = Histograms(self.histograms_every, table, prefix, write)
            engine.actor.guarded_step.happened.append(made[engine.name].end)
        return made

    def _batch_stats(self, trainer: Any, pl_module: Any) -> BatchStats | None:
        """The samples of the batch in training, for a step that is suspicious."""
        if self._data is None:
            return None
        batch, position = self._data
        count = len(self._losses)
        by_hand = getattr(trainer, "divided_by_hand", False) and trainer.accumulate_grad_batches == count
        accumulates = trainer.accumulate_grad_batches > 1 and (pl_module.automatic_optimization or by_hand)
        of = count if accumulates else 1
        micro = find_bad_micro_batch([float(loss) for loss in self._losses]) if of > 1 else -1
        if 0 <= micro < of - 1:
            indices = training_indices(trainer, position - (of - 1 - micro))
            return BatchStats(indices=indices, micro_batch=micro, micro_batches=of)
        size = sample_sizes(batch)
        indices = training_indices(trainer, position)
        return BatchStats(size, indices if len(indices) == len(size) else (), of - 1, of)

    def _first_nonfinite(self, rerun: Rerun) -> tuple[str, ...]:
        """Where the step first is not finite; of accumulated batches the one whose loss tells, if it is kept."""
        if self._data is None:
            return ()
        batches = self._window if len(self._window) == len(self._losses) else [(self._data[0], self._batch_idx)]
        pairs = zip(batches, self._losses[-len(batches) :], strict=True)
        bad = [batch for batch, loss in pairs if not math.isfinite(float(loss))]
        return rerun.first_nonfinite(*(bad or batches)[-1])

    def _check_groups(self, pl_module: Any) -> None:
        """Every group has parameters, and shares none with another."""
        clips = {} if self.clip is None else {regex: regex for regex in self.clip.groups}
        names = parameter_names(pl_module) if clips or self.groups else []
        check_matches("GradGuard(groups=...)", self.groups, names)
        check_matches("GradGuard(clip=...)", clips, names)

    def _clip_for(self, processes: ProcessGroupInfo) -> AbstractClip | None:
        if self.clip is not None and self.clip.unitwise and processes.flattened:
            rank_zero_warn(f"{self.clip} needs whole rows of weights, which FSDP1 flattens: it is disabled. Use FSDP2.")
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

    def _take_in(self, trainer: Any, engine: RunEngine, report: StepReport) -> None:
        """A step's report, or the last one with what followed it."""
        self._seen.add(report, engine.changed, engine.states[LOSS_LEVEL])
        which = f"{self._prefix}{report.prefix.removeprefix(PREFIX)}/grad_norm"
        metrics_of(trainer, "callback_metrics")[which] = as_tensor(report.stats.global_norm)
        if engine.changed:
            self._publish(trainer)
        if self._logbook is not None:
            self._logbook.step(report, log_step(trainer), engine.changed)
        if engine.changed and self.on_incident:
            self._announcer.announce(engine.changed, trainer)

    def _publish(self, trainer: Any) -> None:
        """Lets other callbacks monitor the outcome of the run, and the progress bar count the incidents.

        Not by `self.log`, which costs more than a step's measurements and would log the numbers, too.
        """
        report = self.report()
        metrics = metrics_of(trainer, "callback_metrics")
        metrics[f"{self._prefix}/outcome"] = as_tensor(OUTCOMES.index(report.outcome))
        metrics[f"{self._prefix}/incidents"] = as_tensor(len(report.incidents))
        if report.incidents:
            metrics_of(trainer, "progress_bar_metrics")[f"{self._prefix}/incidents"] = Count(len(report.incidents))

    def _take_in_restorations(self, trainer: Any) -> None:
        """What the engines have put back since their last step."""
        for engine in self._engines.values():
            if engine.restoration is not None:
                last = self._reports[engine.name]
                report = replace(last, findings=(), outcome=replace(last.outcome, restoration=engine.restoration))
                self._reports[engine.name] = report  # a later record of the step must not lose it
                self._take_in(trainer, engine, report)
                engine.restoration = None

    def _finish(self, trainer: Any) -> None:
        for engine in self._engines.values():
            if engine.close_incidents():
                self._take_in(trainer, engine, replace(self._reports[engine.name], findings=()))
        if self._logbook is not None:
            self._logbook.close(self.report(), log_step(trainer))
        leave_training_data(trainer)
        self._release()

    def _release(self) -> None:
        """Removes every hook and lets go of the module's extras; what was seen stays readable."""
        for engine in self._engines.values():
            engine.close()
        self._unfollow()
        self._histograms = {}
        self._forward_state = self._logbook = self._data = self._bad_batches = None
        self._window = []
        if self._recent is not None:
            self._recent.forget()
        self._losses = []


def do_nothing() -> None:
    """Before `setup` and after the end."""


class Count(int):
    """A whole number, also in a progress bar that formats its numbers as floats."""

    def __format__(self, spec: str) -> str:
        return str(int(self))


def as_tensor(number: float) -> Tensor:
    """A number as Lightning's callbacks expect it: a tensor of its own, because they keep it."""
    return torch.tensor(number, dtype=torch.float32, device="cpu")


def join_namespaces() -> None:
    """Makes `GradGuard` a `Callback` of a namespace that was imported after it, too."""
    GradGuard.__bases__ = tuple(dict.fromkeys((*GradGuard.__bases__, *callback_classes())))
