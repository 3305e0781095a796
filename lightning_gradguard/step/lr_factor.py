"""ACT: a factor on the learning rate that no schedule, checkpoint or monitor ever sees."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class LRFactor:
    """A factor on an optimizer's learning rate that is only there while the optimizer steps.

    The schedule, checkpoints and learning-rate monitors see the user's value: the factor is multiplied in by a
    step-pre-hook and the old values are put back by a step-post-hook. After `hold` healthy steps the factor grows back
    to its base (1 unless `set_permanent` changed it), tenfold in `ramp` steps; a reduction after that
    began doubles the hold.
    Apart from that, no learning rate is let above `ceiling` once `cap` has set one.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scale = LRFactor(sgd)
        >>> scale.reduce(0.1, floor=1e-4)
        0.1
        >>> scale.effective_lr(), sgd.param_groups[0]["lr"]
        (0.1, 1.0)
    """

    def __init__(self, optimizer: Optimizer, hold: int = 200, ramp: int = 100) -> None:
        self.optimizer, self.ramp = optimizer, ramp
        self.factor, self.base, self.hold, self.healthy, self.ceiling = 1.0, 1.0, hold, 0, math.inf
        self._inside: list[tuple[dict[str, Any], Any]] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._enter),
            optimizer.register_step_post_hook(self._leave),
        ]

    def _enter(self, *_: Any) -> None:
        self.restore()
        groups = [group for group in self.optimizer.param_groups if "lr" in group]
        self._inside = [(group, copy.deepcopy(group["lr"])) for group in groups]
        self._apply()

    def _leave(self, *_: Any) -> None:
        self.restore()

    def _apply(self) -> None:
        if (scale := self.current_factor()) == 1.0:
            return
        for group, lr in self._inside:
            set_lr(group, lr * scale)

    def restore(self) -> None:
        """Puts the user's learning rates back; needed when a step was left by an exception."""
        for group, lr in self._inside:
            set_lr(group, lr)
        self._inside = []

    def reduce(self, factor: float, floor: float = 0.0) -> float:
        """Multiplies the factor by `factor`, not below `floor`, from the present step on; returns the new factor."""
        self.hold *= 2 if self.healthy > self.hold else 1
        self.factor, self.healthy = max(self.factor * factor, floor), 0
        self._apply()
        return self.factor

    def recover(self) -> None:
        """Counts one healthy step; past the hold the factor grows back to its base."""
        if self.factor < self.base:
            self.healthy += 1
            if self.healthy > self.hold:
                self.factor = min(self.base, self.factor * 10 ** (1 / self.ramp))

    def set_permanent(self, factor: float) -> float:
        """Sets the factor for good: what later reductions grow back to. Returns it."""
        self.factor = self.base = factor
        self._apply()
        return factor

    def cap(self, ceiling: float) -> None:
        """Lets no learning rate above `ceiling` from the present step on; a lower one of the user's stays."""
        self.ceiling = min(self.ceiling, ceiling)
        self._apply()

    def current_factor(self) -> float:
        """What the user's learning rates are multiplied by now."""
        if self.ceiling == math.inf:
            return self.factor
        highest = self._highest()
        return self.factor * (self.ceiling / highest if highest > self.ceiling else 1.0)

    def effective_lr(self) -> float:
        """The largest learning rate of the next step."""
        return self.current_factor() * self._highest()

    def _highest(self) -> float:
        """The user's largest learning rate; NaN when there is none."""
        return max(self.user_lrs(), default=math.nan)

    def user_lrs(self) -> list[float]:
        """The learning rate of every parameter group that has one, as the user's schedule has it."""
        user = {id(group): lr for group, lr in self._inside}
        return [float(user.get(id(g), g["lr"])) for g in self.optimizer.param_groups if "lr" in g]

    def state_dict(self) -> dict[str, float]:
        """Plain numbers."""
        names = ("factor", "base", "ceiling", "hold", "healthy")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.factor, self.base, self.ceiling = (float(state[name]) for name in ("factor", "base", "ceiling"))
        self.hold, self.healthy = int(state["hold"]), int(state["healthy"])

    def close(self) -> None:
        """Puts the learning rates back and removes the hooks."""
        self.restore()
        for handle in self._handles:
            handle.remove()


def set_lr(group: dict[str, Any], lr: Any) -> None:
    """Sets a group's learning rate; one that is a tensor (capturable, compiled) is changed in place."""
    if isinstance(group["lr"], Tensor):
        group["lr"].copy_(lr)
    else:
        group["lr"] = lr
