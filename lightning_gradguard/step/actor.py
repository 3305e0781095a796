"""ACT: applies the chosen remedies to the step about to happen, and keeps what remedies need."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.arguments import warn_switched_off
from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.sample_clock import next_multiple
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import KEPT, Action, Finding, Response, StepOutcome, TrialEvent
from lightning_gradguard.step.adam_update import AdamUpdate
from lightning_gradguard.step.checkup import Checkup
from lightning_gradguard.step.guarded_step import GuardedStep
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.pending_step import PendingStep, forget_scale
from lightning_gradguard.step.rerun import Indexed, Rerun
from lightning_gradguard.step.saved_state import SavedState
from lightning_gradguard.step.snapshots import Snapshots
from lightning_gradguard.tensors.checkpointing import from_checkpoint, load_parts, to_checkpoint


class Actor:
    """The acting half of one optimizer's engine.

    Args:
        module: The module in training.
        optimizer: Its optimizer.
        forward_state: What cancelling a step puts back beside the gradients.
        clip: Clipping for every step; None for none.
        scaler: The GradScaler, if any.
        gradients_scaled: Whether gradients are still multiplied by the scaler's scale when the step begins.
        fused_clip: Whether a fused optimizer may clip as it reads the gradients.
        takes_snapshots: Whether any remedy needs snapshots.
        snapshot_every: Steps between two snapshots.
        snapshots: How many are kept.
        rerun: Takes steps again, where remedies may be tried beside the run.
        trials: What is tried at a quarter of the run.
        total_steps: Optimizer steps that the run is meant to take; None when it has no end.
        explains: Whether what is better beside the run is only told.
        name: The optimizer's index when there are several; otherwise empty.
        model_changed: Called whenever modules may have been exchanged.
        parts: The parameters of each group with a clip of its own.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        forward_state: ForwardState,
        *,
        clip: Any = None,
        scaler: Any = None,
        gradients_scaled: bool = False,
        fused_clip: bool = False,
        takes_snapshots: bool = False,
        snapshot_every: int = 50,
        snapshots: int = 2,
        rerun: Rerun | None = None,
        trials: Sequence[tuple[Any, ...]] = (),
        total_steps: int | None = None,
        explains: bool = False,
        name: str = "",
        model_changed: Callable[[], None] = lambda: None,
        parts: Callable[[], Mapping[str, Sequence[Tensor]]] = dict,
    ) -> None:
        self.module, self.optimizer, self.forward_state, self.name = module, optimizer, forward_state, name
        self.clip, self.scaler, self._gradients_scaled = clip, scaler, gradients_scaled
        self._fused_clip = fused_clip and scaler is None
        self._takes_snapshots, self._snapshot_every = takes_snapshots, snapshot_every
        self.lr_factor = LRFactor(optimizer)
        self.guarded_step = GuardedStep(optimizer)
        self.snapshots = Snapshots(module, optimizer, snapshots, scaler)
        self.adam = AdamUpdate(optimizer)
        self._model_changed, self._parts = model_changed, parts
        self.checkup: Checkup | None = None
        if rerun is not None:
            self.checkup = Checkup(
                save=lambda: SavedState(module, optimizer, self.lr_factor, self.adam),
                apply=self._apply_aside,
                is_called_for=self._is_called_for,
                changed=model_changed,
                ready=self._ready_aside,
                aside=self._aside,
                trials=trials,
                total_steps=total_steps,
                rerun=rerun,
                lr_factor=self.lr_factor,
                keeps=not explains,
            )
        self.clip_state: dict[str, Any] = clip.init() if clip is not None else {}
        self.snapshot_due = 0
        self.weights_changed = False  # by a step, since they were last known good
        self.untouched = True  # whether no step was taken in this run
        self._stats: GradStats | None = None  # of the latest step
        self._loss = math.nan
        self._failed: set[Any] = set()  # remedies that raised
        self.activation_stats: ActivationStats | None = None  # the latest
        self.first_activation_stats: ActivationStats | None = None  # at the initial weights

    @property
    def grad_scale(self) -> float:
        """What the gradients are still multiplied by."""
        return float(self.scaler.get_scale()) if self._gradients_scaled else 1.0

    @property
    def held_snapshots(self) -> list[int]:
        """Steps of the snapshots that may still be restored."""
        return [snapshot.step for snapshot in self.snapshots.ring]

    def snapshot_is_due(self, step: int) -> bool:
        """Whether a snapshot will be taken if the step is healthy."""
        return self._takes_snapshots and step >= self.snapshot_due

    def ask_for_snapshot(self, step: int) -> None:
        """A snapshot is due now."""
        self.snapshot_due = min(self.snapshot_due, step)

    def act(
        self,
        stats: GradStats,
        chosen: Sequence[tuple[Finding, Sequence[Any]]],
        sound: bool,
        loss: float = math.nan,
    ) -> StepOutcome:
        """Applies what was chosen to the step about to happen.

        Args:
            stats: What was measured.
            chosen: Each finding with its remedies.
            sound: Whether a snapshot may be taken now, as far as the detectors know.
            loss: Where the loss stands, when a snapshot is due.
        """
        self._loss, self._stats = loss, stats
        event = self._take_event(stats.step)
        self.forget_scale()
        self.guarded_step.begin_evaluation()
        if stats.activation_stats is not None:
            self.activation_stats = stats.activation_stats
        if stats.step == 0:
            self.first_activation_stats = self.activation_stats
        if not chosen and self.clip is None and not self.adam.lr:
            return self._leave_alone(stats, sound, event)
        step = self._pending(
            stats,
            guarded_step=self.guarded_step,
            scaler=self.scaler if self._gradients_scaled else None,
            weights_changed=self.weights_changed,
            untouched=self.untouched,
            grad_scale=self.grad_scale,
            checkup=self.checkup,
            activation_stats=self.activation_stats,
            fused_clip=self._fused_clip,
        )
        return self._answer(step, chosen, sound, event)

    def _pending(self, stats: GradStats, **more: Any) -> PendingStep:
        """What remedies act through, in the run and beside it."""
        return PendingStep(
            optimizer=self.optimizer,
            stats=stats,
            lr_factor=self.lr_factor,
            snapshots=self.snapshots,
            forward_state=self.forward_state,
            module=self.module,
            adam=self.adam,
            optimizer_name=self.name,
            parts=self._parts(),
            **more,
        )

    def _leave_alone(self, stats: GradStats, sound: bool, event: TrialEvent | None) -> StepOutcome:
        """Most steps of most runs: nothing is chosen and nothing is done at every step."""
        snapshot = self._settle(stats, stats.clean, sound)
        return StepOutcome(snapshot=snapshot, lr_factor=self._lr_factor_now, trial=event)

    # ---------------------------------------------------------------- experiments between two steps

    @property
    def event(self) -> TrialEvent | None:
        """The outcome of an experiment since the last step, if there was one."""
        return self.checkup.event if self.checkup is not None else None

    def _take_event(self, step: int) -> TrialEvent | None:
        """The same, for the outcome of the step about to happen."""
        event = self.event
        if self.checkup is not None and event is not None:
            self.checkup.event = None
            if event.kind == KEPT:
                self._forget_snapshots(step)
                self.weights_changed = True
        return event

    def keep(self, batches: Sequence[Indexed]) -> None:
        """The batches of the step about to happen, for a later experiment."""
        if self.checkup is not None and self._stats is not None:
            self.checkup.keep(batches, self._stats.loss if self._stats.clean else None)

    def _is_called_for(self, remedies: Sequence[Any]) -> bool:
        """Whether what one of these remedies repairs is further off than in any published recipe."""
        step = self._aside_step()
        return any(remedy.is_called_for(step) for remedy in remedies)

    def _aside_step(self) -> PendingStep:
        """What remedies act through beside the run."""
        assert self._stats is not None
        return self._pending(self._stats, activation_stats=self.first_activation_stats or self.activation_stats)

    def _apply_aside(self, remedies: Sequence[Any], finding: Finding) -> list[Action]:
        """Applies remedies in an experiment; what they did, nothing if one of them has nothing to do."""
        step, actions = self._aside_step(), []
        for remedy in remedies:
            action = applied(remedy, finding, step)
            if action is None:
                return []
            actions.append(action)
        return actions

    def _ready_aside(self) -> None:
        """The gradients of a step in an experiment are there."""
        self.lr_factor.apply()
        self.adam.apply()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Steps of an experiment are not the run's: nothing is counted or measured at them."""
        step = self.guarded_step
        hooks, step.before, step.happened = (step.before, step.happened), [], []
        try:
            yield
        finally:
            step.before, step.happened = hooks
            step.begin_evaluation()

    # ---------------------------------------------------------------- the step about to happen

    @property
    def _lr_factor_now(self) -> float:
        return 1.0 if self.lr_factor.neutral else self.lr_factor.current_factor()

    def _answer(
        self,
        step: PendingStep,
        chosen: Sequence[tuple[Finding, Sequence[Any]]],
        sound: bool,
        event: TrialEvent | None,
    ) -> StepOutcome:
        responses, stopped_by = [], ""
        for finding, rung in chosen:
            actions = [action for remedy in rung for action in self._apply(remedy, finding, step)]
            responses.append(Response(finding.kind, tuple(map(repr, rung)), tuple(actions)))
            stopped_by = stopped_by or (finding.kind if step.stop_reason else "")
        if step.model_changed:
            self._model_changed()
            self._forget_snapshots(step.stats.step)
        if step.objective_changed:
            self.snapshots.forget_losses()
        if not step.cancelled:
            self.adam.apply(step.grad_scale)
            self._clip(step)
        healthy = step.stats.clean and not any(rung for _, rung in chosen)
        return StepOutcome(
            responses=tuple(responses),
            cancelled=step.cancelled,
            clip_coefficient=step.clip_coefficient,
            snapshot=self._settle(step.stats, healthy, sound, step),
            lr_factor=self._lr_factor_now,
            restored=step.restored.step if step.restored is not None else None,
            model_changed=step.model_changed,
            objective_changed=step.objective_changed,
            trial=event,
            stopped_by=stopped_by,
            stop_reason=step.stop_reason,
        )

    def _forget_snapshots(self, step: int) -> None:
        """They are of another model."""
        self.snapshots.clear()
        self.snapshot_due = step

    def _clip(self, step: PendingStep) -> None:
        """Clipping for every step; one that raises is switched off."""
        if self.clip is None:
            return
        try:
            self.clip_state = self.clip.apply(self.clip_state, step)
        except Exception as error:
            warn_switched_off("clipping", self.clip, error)
            self.clip = None

    def _apply(self, remedy: Any, finding: Finding, step: PendingStep) -> list[Action]:
        """What a remedy did: nothing or one action. One that raises is switched off."""
        if remedy in self._failed:
            return []
        changes, was_cancelled = step.changes, step.cancelled
        try:
            action = applied(remedy, finding, step)
        except Exception as error:
            self._failed.add(remedy)
            warn_switched_off("remedy", remedy, error)
            return []
        if action is None or (was_cancelled and step.changes == changes):
            return []
        return [action]

    def _settle(self, stats: GradStats, healthy: bool, sound: bool, step: PendingStep | None = None) -> bool:
        """What follows from a step for later ones; whether a snapshot was taken.

        Args:
            stats: What was measured.
            healthy: Whether loss and gradients were finite and no remedy was chosen.
            sound: Whether a snapshot may be taken now, as far as the detectors know.
            step: The handle through which the step was changed, if it was.
        """
        taken = healthy and sound and self.snapshot_is_due(stats.step)
        if healthy and not self.lr_factor.neutral:
            self.lr_factor.recover()
        if taken:
            self.snapshots.take(stats.step, self._loss)
            self.snapshot_due = next_multiple(stats.step, self._snapshot_every)
        if healthy or (step is not None and step.restored is not None):
            self.weights_changed = False
        if not self.lr_factor.neutral:
            self.lr_factor.apply()
        return taken

    def confirm_weights(self) -> None:
        """The weights are known to be good: whatever is wrong with the step comes from its data."""
        self.weights_changed = False

    def suspect_weights(self, since: int | None = None) -> None:
        """The weights are not good, whatever was thought of them before; nor are snapshots after the step `since`."""
        self.weights_changed = True
        if since is not None:
            self.snapshots.forget_after(since)

    def put_back(self, best: bool) -> int | None:
        """Puts a snapshot back between two steps, the newest or the best; its step, None without one."""
        snapshot = self.snapshots.restore_best() if best else self.snapshots.restore()
        self.weights_changed &= snapshot is None
        return snapshot.step if snapshot is not None else None

    def before_first_step(self) -> None:
        """Before the very first forward pass."""
        if self.checkup is not None:
            self.checkup.remember_initial()

    def forget_scale(self) -> None:
        """Removes a `grad_scale` of a step that is over, also when that step was left by an exception."""
        if self._fused_clip and "grad_scale" in vars(self.optimizer):
            forget_scale(self.optimizer)

    def step_happened(self) -> None:
        """The optimizer has really stepped."""
        self.weights_changed, self.untouched = True, False
        self.forget_scale()

    def state_dict(self) -> dict[str, Any]:
        """Everything that later actions depend on, as plain values."""
        return {
            "clip": {
                "of": self.clip.label if self.clip is not None else "NoneType",
                "state": to_checkpoint(self.clip_state),
            },
            "lr_factor": self.lr_factor.state_dict(),
            "snapshot_due": self.snapshot_due,
            "weights_changed": self.weights_changed,
            "untouched": self.untouched,
            "adam": self.adam.state_dict(),
            "checkup": self.checkup.state_dict() if self.checkup is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`; a part that cannot be used is reset, with a warning."""
        load_parts(
            state,
            {
                "clip": self._load_clip,
                "lr_factor": self.lr_factor.load_state_dict,
                "snapshot_due": self._load_snapshot_due,
                "weights_changed": self._load_weights_changed,
                "untouched": self._load_untouched,
                "adam": self.adam.load_state_dict,
                "checkup": self._load_checkup,
            },
        )

    def _load_clip(self, saved: dict[str, Any]) -> None:
        if self.clip is None:
            return
        state, now = from_checkpoint(saved["state"]), self.clip.label
        if saved["of"] != now or state.keys() != self.clip_state.keys():
            raise ValueError(f"it is of {saved['of']}, the run has {now}")
        self.clip_state = state

    def _load_snapshot_due(self, step: Any) -> None:
        self.snapshot_due = int(step)

    def _load_weights_changed(self, changed: Any) -> None:
        self.weights_changed = bool(changed)

    def _load_untouched(self, untouched: Any) -> None:
        self.untouched = bool(untouched)

    def _load_checkup(self, state: dict[str, Any] | None) -> None:
        if self.checkup is not None and state is not None:
            self.checkup.load_state_dict(state)

    def close(self) -> None:
        """Puts the learning rate back, removes the hooks and lets the snapshots go."""
        self.guarded_step.remove()
        self.lr_factor.close()
        self.forget_scale()
        self.snapshots.clear()
        if self.checkup is not None:
            self.checkup.forget()


def applied(remedy: Any, finding: Finding, step: PendingStep) -> Action | None:
    """What a remedy did; one of the last release returns it as text."""
    action: Action | str | None = remedy.apply(finding, step)
    if isinstance(action, str):
        warnings.warn(
            f"`{type(remedy).__name__}.apply` returned text; return `self.did(...)` or None. Text will not be "
            "accepted any more in the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        return Action(remedy.name, action) if action else None
    return action
