"""ACT: an optimizer step about to happen, the one handle through which remedies change a run, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.modules.surgery import replace_module
from lightning_gradguard.step.adam_update import AdamUpdate
from lightning_gradguard.step.checkup import Checkup, Question
from lightning_gradguard.step.guarded_step import GuardedStep
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.model_changes import INIT, OPTIMIZERS, CodeChange, NewModule, record_change
from lightning_gradguard.step.snapshots import Snapshot, Snapshots
from lightning_gradguard.tensors.copies import optimizer_params
from lightning_gradguard.tensors.shards import local

#: A smaller coefficient is multiplied in at once: its inverse comes near the end of fp32. Chosen.
TINIEST = 1e-30


@dataclass(kw_only=True, eq=False)
class PendingStep:
    """An optimizer step about to happen, and everything a remedy may do to it.

    What concerns the step's gradients has no effect once the step is cancelled. Every method that changes the run
    counts as a change, so that a remedy that reports work on a cancelled step without having changed anything is not
    believed.

    Args:
        optimizer: The optimizer that will step.
        stats: What was measured.
        lr_factor: The optimizer's learning-rate factor.
        snapshots: Where `restore` finds its weights.
        forward_state: What `cancel` puts back beside the gradients.
        guarded_step: What `cancel` cancels; None where the step is not taken, or ends without gradients.
        scaler: A GradScaler that has not yet unscaled the gradients (a fused optimizer's); None otherwise.
        weights_changed: Whether a step was taken since the weights were last known good; a rollback, or another
            reduction of the learning rate, is pointless while nothing has changed.
        untouched: Whether no step was taken in this run: the weights are the initial ones.
        grad_scale: What the gradients are still multiplied by: by a scaler that has not unscaled them, or until the
            optimizer divides by it (see `fused_clip`).
        module: The module in training, for remedies that change it.
        adam: Adam's update in place of a plain SGD's; None where that cannot be.
        checkup: Tries remedies beside the run; None where nothing can be tried.
        activation_stats: The latest activation statistics.
        optimizer_name: The optimizer's index when there are several; otherwise empty.
        fused_clip: Whether a fused optimizer may scale the gradients itself as it reads them: nobody else reads or
            clips them before, and no GradScaler owns the optimizer's `grad_scale`.
        parts: The parameters of each group with a clip of its own, by the group's regular expression.
        only: The parameters that the handle is for, of a part; None for all of the optimizer.

    Attributes:
        cancelled: The step will not happen.
        clip_coefficient: Product of all scalings of the gradients.
        restored: The snapshot that was put back, if any.
        stop_reason: Why training should end, if it should.
        objective_changed: The weight decay is higher from here on, so that the loss may rise.
        model_changed: The model is another one from here on, so that what was learned about it is void.
        changes: How many changes were made through this handle.
    """

    optimizer: Optimizer
    stats: GradStats
    lr_factor: LRFactor
    snapshots: Snapshots
    forward_state: ForwardState
    guarded_step: GuardedStep | None = None
    scaler: Any = None
    weights_changed: bool = True
    untouched: bool = False
    grad_scale: float = 1.0
    module: nn.Module | None = None
    adam: AdamUpdate | None = None
    checkup: Checkup | None = None
    activation_stats: ActivationStats | None = None
    optimizer_name: str = ""
    fused_clip: bool = False
    parts: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    only: Sequence[Tensor] | None = None
    cancelled: bool = field(default=False, init=False)
    clip_coefficient: float = field(default=1.0, init=False)
    restored: Snapshot | None = field(default=None, init=False)
    stop_reason: str = field(default="", init=False)
    model_changed: bool = field(default=False, init=False)
    objective_changed: bool = field(default=False, init=False)
    changes: int = field(default=0, init=False)

    # ---------------------------------------------------------------- the step and its gradients

    @property
    def params(self) -> Sequence[Tensor]:
        """The optimizer's parameters; of a part, the part's."""
        return optimizer_params(self.optimizer) if self.only is None else self.only

    @property
    def grads(self) -> list[Tensor]:
        """The gradients of the parameters that have one; this process's pieces, under sharding.

        Empty once the step is cancelled. A remedy may change them in place; they are still multiplied by `grad_scale`.
        """
        if self.cancelled:
            return []
        return [local(p.grad) for p in self.params if p.grad is not None]

    def part(self, regex: str) -> PendingStep:
        """The same step as a clip of one group of parameters sees it: `stats`, `params` and `grads` are the group's."""
        layers, norms = self.stats.parts[regex]
        stats = replace(
            self.stats, layers=layers, grad_norm=norms, param_norm=None, update_ratio=None, trainable=None, parts={}
        )
        part = replace(self, stats=stats, only=self.parts[regex], fused_clip=False, parts={})
        part.cancelled, part.clip_coefficient = self.cancelled, self.clip_coefficient
        return part

    def join(self, parts: Iterable[PendingStep]) -> None:
        """Takes in what was done to parts of the step that have no parameter in common."""
        before, whole = self.clip_coefficient, self.norm
        clipped = [part for part in parts if part.changes]
        self.changes += sum(part.changes for part in clipped)
        if not clipped or not 0 < whole < math.inf:
            return
        lost = sum((part.stats.global_norm * before / whole) ** 2 - (part.norm / whole) ** 2 for part in clipped)
        self.clip_coefficient *= math.sqrt(max(0.0, 1.0 - lost))

    def cancel(self) -> None:
        """Makes the step an exact no-op: weights, optimizer state, buffers and metrics stay as before the batch."""
        if self.cancelled:
            return
        if self.fused_clip:
            forget_scale(self.optimizer)
        if self.scaler is None:  # a GradScaler looks for infinities in a fused optimizer's gradients: they have to stay
            for p in optimizer_params(self.optimizer):
                p.grad = None
        self.cancelled = True
        if self.guarded_step is not None:
            self.guarded_step.cancel()
        self.changes += 1
        self.forward_state.restore()

    @torch.no_grad()
    def scale_gradients(self, coefficient: float) -> bool:
        """Multiplies every gradient by `coefficient`, in place or by a fused optimizer as it reads them.

        Returns:
            False when the step is cancelled, so that there is nothing to scale.
        """
        if self.cancelled:
            return False
        self.changes += 1
        self.clip_coefficient *= coefficient
        grads = self.grads
        if self.fused_clip and grads and coefficient > TINIEST and divides(self.optimizer):
            self.grad_scale /= coefficient
            scale = torch.tensor(self.grad_scale, dtype=torch.float32, device=grads[0].device)
            self.optimizer.grad_scale = scale  # type: ignore[attr-defined]
        elif grads:
            torch._foreach_mul_(grads, coefficient)
        return True

    def clip_to(self, limit: float) -> bool:
        """Scales the gradients so that their global norm does not exceed `limit`; whether that was needed.

        Args:
            limit: Largest L2 norm of all gradients as one vector; NaN or Inf clips nothing.
        """
        norm = self.norm
        return math.isfinite(limit) and norm > limit and self.scale_gradients(limit / norm)

    @property
    def norm(self) -> float:
        """L2 norm of all gradients as one vector after what has scaled them so far; NaN where one is not finite."""
        return self.stats.global_norm * self.clip_coefficient

    # ---------------------------------------------------------------- learning rate and optimizer

    def reduce_lr(self, factor: float, floor: float) -> tuple[float, float] | None:
        """Multiplies the learning-rate factor until the run recovers.

        Args:
            factor: What it is multiplied by.
            floor: It does not fall below this.

        Returns:
            The factor before and after; None when it stays, because it is at its floor or no step was taken since it
            was last reduced.
        """
        before = self.lr_factor.factor
        after = self.lr_factor.reduce(factor, floor) if self.weights_changed else before
        if after == before:
            return None
        self.changes += 1
        return before, after

    def set_lr_factor(self, factor: float) -> None:
        """Multiplies the user's learning rate by `factor` for the rest of the run."""
        self.lr_factor.set_permanent(factor)
        self.changes += 1
        code = f'for group in {self._optimizer}.param_groups: group["lr"] *= {factor:.6g}'
        self.record(code, OPTIMIZERS, subject=f"{self._optimizer} lr")

    def cap_lr(self, limit: float) -> bool:
        """Lets no learning rate above `limit` from this step on; False when the step is cancelled."""
        if self.cancelled:
            return False
        self.lr_factor.cap(limit)
        self.changes += 1
        return True

    def set_hyperparameters(self, group: dict[str, Any], **values: Any) -> None:
        """Changes settings of one of the optimizer's parameter groups for the rest of the run."""
        before = {key: group.get(key) for key in values}
        self.objective_changed |= values.get("weight_decay", 0.0) > group.get("weight_decay", 0.0)
        group.update(values)
        self.changes += 1
        place = next(i for i, g in enumerate(self.optimizer.param_groups) if g is group)
        name = f"{self._optimizer}.param_groups[{place}]"
        self.record(f"{name}.update({as_arguments(values)})", OPTIMIZERS, as_arguments(before), f"{name} {[*values]}")

    def switch_to_adam(self, lr: float) -> bool:
        """Gives a plain SGD Adam's update; False where that cannot be done.

        Args:
            lr: Adam's learning rate.
        """
        if self.adam is None or self.scaler is not None:
            return False
        if not self.adam.begin(lr, self.lr_factor.user_lrs()):
            return False
        self.set_lr_factor(1.0)
        code = f"{self._optimizer} = torch.optim.Adam(self.parameters(), lr={lr:g})"
        self.record(code, OPTIMIZERS, was="SGD", subject=self._optimizer)
        return True

    @torch.no_grad()
    def reset_optimizer_state(self, param: Tensor, where: Any = ...) -> None:
        """Zeroes the optimizer's moments of a parameter.

        Args:
            param: One of the optimizer's parameters.
            where: An index of the entries to zero, e.g. `slice(4, 8)` or `(slice(None), columns)`; all by default.
        """
        state = self.optimizer.state.get(param, {}).values()
        moments = [value for value in state if isinstance(value, Tensor) and value.shape == param.shape and value.ndim]
        for moment in (*moments, *(self.adam.moments(param) if self.adam is not None else ())):
            moment[where] = 0.0
        self.changes += 1

    # ---------------------------------------------------------------- weights and model

    def restore(self) -> Snapshot | None:
        """Cancels the step and puts the newest snapshot back, unless the weights are still that snapshot's."""
        self.cancel()
        if self.weights_changed:
            self.restored = self.snapshots.restore()
            self.changes += self.restored is not None
        return self.restored

    @property
    def has_learned(self) -> bool:
        """Whether the loss at the newest snapshot was a tenth below that of the first steps; False where unknown."""
        newest, first = self.snapshots.newest, self.checkup.initial_loss if self.checkup is not None else math.nan
        return newest is not None and first - newest.loss > 0.1 * abs(first)

    def edit_model(self) -> nn.Module | None:
        """The module in training, for a remedy that changes it in place; None where there is none."""
        if self.module is not None:
            self._change_model()
        return self.module

    def replace_module(self, name: str, new: NewModule) -> None:
        """Exchanges a submodule, or puts another one before or after it. Checkpoints say so.

        Args:
            name: Its dotted name.
            new: What takes its place, or is joined with it.
        """
        assert self.module is not None
        old = self.module.get_submodule(name)
        replace_module(self.module, name, new.joined(old, self.module))
        record_change(self.module, CodeChange.exchange(name, old, new))
        self._change_model()

    def record(self, code: str, method: str = INIT, was: str = "", subject: str = "") -> None:
        """Says for `guard.changes` what to write so that the next run begins with a change.

        Args:
            code: The code, a line.
            method: The module's method that it belongs to.
            was: What there was before.
            subject: What is set, if a later change of the same replaces this one.
        """
        if self.module is not None:
            record_change(self.module, CodeChange(code, method, was, subject))

    @property
    def _optimizer(self) -> str:
        return f"optimizers[{self.optimizer_name}]" if self.optimizer_name else "optimizer"

    def _change_model(self) -> None:
        self.changes += 1
        self.model_changed = True

    # ---------------------------------------------------------------- experiments, and the end

    def ask(self, question: Question) -> None:
        """Asks for an experiment beside the run, as soon as one is possible; see `Checkup`."""
        if self.checkup is not None:
            self.checkup.ask(question)

    def stop(self, reason: str) -> None:
        """Cancels the step, puts the newest snapshot back and asks for the end of training.

        Args:
            reason: Why, in a sentence for the user.
        """
        self.restore()
        self.stop_reason = reason
        self.changes += 1


def divides(optimizer: Optimizer) -> bool:
    """Whether the optimizer divides gradients by its `grad_scale` as it reads them, in fp32: all of it is fused.

    Example:
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> [divides(torch.optim.Adam([weight], fused=fused)) for fused in (True, False)]
        [True, False]
    """
    fused = all(group.get("fused") for group in optimizer.param_groups)
    able = fused and bool(getattr(optimizer, "_step_supports_amp_scaling", False))
    return able and all(p.dtype != torch.float64 for p in optimizer_params(optimizer))


def as_arguments(values: dict[str, Any]) -> str:
    """Settings as arguments of a call.

    Example:
        >>> as_arguments({"momentum": 0.9, "nesterov": True})
        'momentum=0.9, nesterov=True'
    """
    return ", ".join(f"{key}={value!r}" for key, value in values.items())


def forget_scale(optimizer: Optimizer) -> None:
    """Removes a `grad_scale` after the step that it was meant for, or instead of it."""
    vars(optimizer).pop("grad_scale", None)
