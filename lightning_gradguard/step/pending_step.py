"""ACT: an optimizer step about to happen, the one mutable handle through which remedies touch a run, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.loss_trend import DEFAULT_TOTAL_STEPS
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.remedy_search import LONGEST, SHORTEST, Candidate, RemedySearch
from lightning_gradguard.step.snapshots import Snapshot, Snapshots
from lightning_gradguard.tensors.copies import optimizer_params
from lightning_gradguard.tensors.shards import local

#: A smaller coefficient is multiplied in at once: its inverse comes near the end of fp32. Chosen.
TINIEST = 1e-30


@dataclass
class PendingStep:
    """An optimizer step about to happen, and everything a remedy may do to it.

    Args:
        optimizer: The optimizer that will step.
        stats: What was measured.
        lr_scale: The optimizer's learning-rate factor.
        snapshots: Where `restore` finds its weights.
        batch: What `cancel` puts back beside the gradients.
        scaler: A GradScaler that has not yet unscaled the gradients (a fused optimizer's); None otherwise.
        damage: Whether a step was really taken since the weights were last known good; a rollback, or another
            reduction of the learning rate, is pointless while nothing has changed.
        grad_scale: What the gradients are still multiplied by: by a scaler that has not unscaled them, or until the
            optimizer divides by it (see `defer`).
        module: The module in training, for remedies that change it.
        course: Tries remedies over several steps.
        look: The latest look inside a batch.
        first_look: The look inside the very first batch, at the initial weights.
        defer: Whether a fused optimizer may scale the gradients itself as it reads them: nobody else reads or clips
            them before, and no GradScaler owns the optimizer's `grad_scale`.

    Attributes:
        cancelled: The step will not happen.
        clip_coefficient: Product of all scalings of the gradients.
        restored: The snapshot that was put back, if any.
        stop_reason: Why training should end, if it should.
        renewed: The model is another one from here on, so that what was learnt about it is void.
    """

    optimizer: Optimizer
    stats: GradStats
    lr_scale: LRFactor
    snapshots: Snapshots
    batch: ForwardState
    scaler: Any = None
    damage: bool = True
    grad_scale: float = 1.0
    module: nn.Module | None = None
    course: RemedySearch | None = None
    look: ActivationStats | None = None
    first_look: ActivationStats | None = None
    defer: bool = False
    cancelled: bool = field(default=False, init=False)
    clip_coefficient: float = field(default=1.0, init=False)
    restored: Snapshot | None = field(default=None, init=False)
    stop_reason: str = field(default="", init=False)
    renewed: bool = field(default=False, init=False)

    @property
    def grads(self) -> list[Tensor]:
        """The gradients of this optimizer's parameters that have one; this process's pieces, under sharding."""
        return [local(p.grad) for p in optimizer_params(self.optimizer) if p.grad is not None]

    def cancel(self) -> None:
        """Makes the step an exact no-op: weights, optimizer state, buffers and metrics stay as before the batch."""
        if self.cancelled:
            return
        self.cancelled = True
        if self.defer:
            forget_scale(self.optimizer)
        if self.scaler is not None:
            # A fused optimizer under a GradScaler needs a recorded inf check; the scaler then skips the step itself.
            for grad in [g for g in self.grads if g.numel()][:1]:
                grad.fill_(float("inf"))
        else:
            for p in optimizer_params(self.optimizer):
                p.grad = None
        self.batch.restore()

    @torch.no_grad()
    def scale_gradients(self, coefficient: float) -> None:
        """Multiplies every gradient by `coefficient`: in place, or without a pass of its own by a fused optimizer."""
        self.clip_coefficient *= coefficient
        grads = self.grads
        if self.defer and grads and coefficient > TINIEST and divides(self.optimizer):
            self.grad_scale /= coefficient
            scale = torch.tensor(self.grad_scale, dtype=torch.float32, device=grads[0].device)
            self.optimizer.grad_scale = scale  # type: ignore[attr-defined]
        elif grads:
            torch._foreach_mul_(grads, coefficient)

    def scale_lr(self, factor: float, floor: float) -> float:
        """Multiplies the learning-rate factor, unless nothing was stepped since it was last changed."""
        return self.lr_scale.reduce(factor, floor) if self.damage else self.lr_scale.factor

    def restore(self) -> Snapshot | None:
        """Cancels the step and puts the newest snapshot back, unless the weights are still that snapshot's."""
        self.cancel()
        if self.damage:
            self.restored = self.snapshots.restore()
        return self.restored

    @torch.no_grad()
    def forget(self, param: Tensor, where: Any = ...) -> None:
        """Zeroes what the optimizer remembers of a parameter's past gradients, of the entries `where` alone if given.

        Args:
            param: One of the optimizer's parameters.
            where: An index, e.g. `slice(4, 8)` or `(slice(None), columns)`.
        """
        state = self.optimizer.state.get(param, {}).values()
        moments = [value for value in state if isinstance(value, Tensor) and value.shape == param.shape and value.ndim]
        for moment in (*moments, *(self.course.adaptive.moments(param) if self.course is not None else ())):
            moment[where] = 0.0

    def try_each(
        self, finding: Any, candidates: Sequence[Candidate], share: float, by_hand: str, clearly: float
    ) -> str:
        """Cancels the step and tries candidates one after another, each for a share of the planned steps.

        Empty where nothing can be tried: no course, one running already, or too few steps left.
        """
        if self.course is None or self.course.active:
            return ""
        total_steps = self.stats.total_steps
        window = min(max(round(share * (total_steps or DEFAULT_TOTAL_STEPS)), SHORTEST), LONGEST)
        left = math.inf if total_steps is None else total_steps - self.stats.step
        if left < 3 * window:
            return ""
        self.cancel()
        return self.course.begin(finding, candidates, window, self.look, by_hand, clearly, left)

    def stop(self, reason: str) -> None:
        """Cancels the step, puts the newest snapshot back and asks for the end of training."""
        self.restore()
        self.stop_reason = reason


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


def forget_scale(optimizer: Optimizer) -> None:
    """After the step that a `grad_scale` was meant for, or instead of it."""
    vars(optimizer).pop("grad_scale", None)
