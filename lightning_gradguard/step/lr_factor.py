"""ACT: a factor on the learning rate that no schedule, checkpoint or monitor ever sees."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_gradguard.step.guarded_step import StepHooks

#: Share of a factor that failed a second time to which it may grow back. Chosen.
SETTLE = 0.3
#: A reduction so many times the hold after the one before is not held against the factor of that time. Chosen.
FORGIVEN_AFTER = 10


class LRFactor:
    """A factor on an optimizer's learning rate that is only there while the optimizer steps.

    The schedule, checkpoints and learning-rate monitors see the user's value. The factor is multiplied in before a
    step, and the old values are put back after it. Where the optimizer computes the gradients itself by a closure, as
    under Lightning, `apply` is called once they are ready, so that a rate set by `training_step` is multiplied too.
    After `hold` healthy steps the factor grows back to its base (1 unless `set_permanent` changed it), tenfold in
    `ramp` steps. A reduction after that began doubles the hold, and lowers the base below the factor that failed again:
    the second return ends there. Apart from that, no learning rate exceeds `ceiling`
    once `cap` has set one.

    Args:
        optimizer: Whose learning rates.
        hold: Healthy steps before the factor grows. Default chosen.
        ramp: Steps in which it grows tenfold. Default chosen.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> lr_factor = LRFactor(sgd)
        >>> lr_factor.reduce(0.1, floor=1e-4)
        0.1
        >>> lr_factor.effective_lr(), sgd.param_groups[0]["lr"]
        (0.1, 1.0)
    """

    def __init__(self, optimizer: Optimizer, hold: int = 200, ramp: int = 100) -> None:
        self.optimizer, self.ramp = optimizer, ramp
        self.factor, self.base, self.hold, self.healthy, self.ceiling = 1.0, 1.0, hold, 0, math.inf
        self.taken = 0  # steps since the last reduction
        self.neutral = True  # whether it changes no learning rate and has nothing to recover from
        self._stepping = False
        self._user: list[tuple[dict[str, Any], Any, float]] = []  # group, the user's rate, the rate of this step
        self._hooks = StepHooks(optimizer, before=[self._enter], after=[self.restore])

    def _enter(self) -> None:
        self._stepping = True
        self.taken += 1
        self.apply()

    def apply(self) -> None:
        """Sets the learning rates of the step that is taking place; outside of a step there is nothing to set."""
        self.neutral = self.factor == 1.0 == self.base and self.ceiling == math.inf
        if not self._stepping:
            return
        self._put_back()
        if (factor := self.current_factor()) == 1.0:
            return
        for group in (group for group in self.optimizer.param_groups if "lr" in group):
            user = copy.deepcopy(group["lr"])
            set_lr(group, user * factor)
            self._user.append((group, user, float(group["lr"])))

    def restore(self) -> None:
        """Puts the user's learning rates back."""
        self._stepping = False
        self._put_back()

    def _put_back(self) -> None:
        for group, lr, applied in self._user:
            if float(group["lr"]) == applied:  # the user has not set another one since
                set_lr(group, lr)
        self._user = []

    def reduce(self, factor: float, floor: float = 0.0) -> float:
        """Multiplies the factor by `factor`, not below `floor`; returns the new factor."""
        if self.healthy > self.hold and self.taken <= FORGIVEN_AFTER * self.hold:
            self.hold *= 2
            self.base = min(self.base, SETTLE * self.factor)
        self.taken = 0
        self.factor, self.healthy = max(self.factor * factor, floor), 0
        self.base = max(self.base, self.factor)
        self.apply()
        return self.factor

    def recover(self) -> None:
        """Counts one healthy step; past the hold the factor grows back to its base."""
        if self.factor < self.base:
            self.healthy += 1
            if self.healthy > self.hold:
                self.factor = min(self.base, self.factor * 10 ** (1 / self.ramp))

    def set_permanent(self, factor: float) -> float:
        """Sets the factor for the rest of the run: what later reductions grow back to. Returns it."""
        self.factor = self.base = factor
        self.apply()
        return factor

    def end_reduction(self) -> None:
        """Goes back to the base at once."""
        self.factor = self.base
        self.apply()

    def cap(self, ceiling: float) -> None:
        """Lets no learning rate exceed `ceiling`; a lower one of the user's stays."""
        self.ceiling = min(self.ceiling, ceiling)
        self.apply()

    def current_factor(self) -> float:
        """What the user's learning rates are multiplied by now."""
        if self.ceiling == math.inf:
            return self.factor
        highest = self._highest()
        return self.factor * (self.ceiling / highest if highest > self.ceiling else 1.0)

    def effective_lr(self) -> float:
        """The largest learning rate of the next step; one that is negative or not finite (as Inf) before all others."""
        for lr in self.user_lrs():
            if not 0 <= lr < math.inf:
                return lr if -math.inf < lr < 0 else math.inf
        return self.current_factor() * self._highest()

    def _highest(self) -> float:
        """The user's largest learning rate; NaN when there is none."""
        return max(self.user_lrs(), default=math.nan)

    def user_lrs(self) -> list[float]:
        """The learning rate of every parameter group that has one, as the user's schedule has it."""
        user = {id(group): lr for group, lr, applied in self._user if float(group["lr"]) == applied}
        return [float(user.get(id(g), g["lr"])) for g in self.optimizer.param_groups if "lr" in g]

    def state_dict(self) -> dict[str, float]:
        """Plain numbers."""
        names = ("factor", "base", "ceiling", "hold", "healthy", "taken")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        hold, healthy, taken = (int(state[name]) for name in ("hold", "healthy", "taken"))
        self.factor, self.base, self.ceiling = (float(state[name]) for name in ("factor", "base", "ceiling"))
        self.hold, self.healthy, self.taken = hold, healthy, taken
        self.apply()

    def close(self) -> None:
        """Puts the learning rates back and removes the hooks."""
        self.restore()
        self._hooks.remove()


def set_lr(group: dict[str, Any], lr: Any) -> None:
    """Sets a group's learning rate; one that is a tensor (capturable, compiled) is changed in place."""
    if isinstance(group["lr"], Tensor):
        group["lr"].copy_(lr)
    else:
        group["lr"] = lr
