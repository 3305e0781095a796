"""ACT: Adam's update through a plain SGD, for a run that began with one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

#: Adam's own constants: Kingma and Ba 2015, arXiv 1412.6980, section 2.
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class AdamUpdate:
    """Replaces gradients by Adam's direction, scaled so that plain SGD then takes Adam's step.

    The optimizer stays the user's object, with its schedule and its place in checkpoints: a schedule scales Adam's
    learning rate in proportion.

    Args:
        optimizer: Only `torch.optim.SGD` can be used in this way.

    Example:
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> sgd = torch.optim.SGD([weight], lr=0.5, momentum=0.9)
        >>> adaptive = AdamUpdate(sgd)
        >>> adaptive.begin(lr=0.001, user_lrs=[0.5])
        True
        >>> weight.grad = torch.tensor([3.0, -1e-3])
        >>> adaptive.apply()
        >>> sgd.step()
        >>> [round(w, 6) for w in weight.tolist()]
        [-0.001, 0.001]
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.lr = 0.0
        self._base: list[float] = []
        self._moments: dict[int, tuple[Tensor, Tensor, int]] = {}

    def begin(self, lr: float, user_lrs: list[float]) -> bool:
        """Starts with zero moments; False where the optimizer cannot be used in this way.

        Args:
            lr: Adam's learning rate.
            user_lrs: The learning rate of each group now, as the user's schedule has it.
        """
        if not isinstance(self.optimizer, SGD) or not all(rate > 0 for rate in user_lrs):
            return False
        self.lr, self._moments = lr, {}
        self._base = list(user_lrs)
        for group in self.optimizer.param_groups:
            group.update(momentum=0.0, nesterov=False)
        return True

    def apply(self, grad_scale: float = 1.0) -> None:
        """Replaces the gradients of the step about to happen; does nothing before `begin`."""
        if self.lr:
            self._exchange(grad_scale)

    @torch.no_grad()
    def _exchange(self, grad_scale: float) -> None:
        for group, base in zip(self.optimizer.param_groups, self._base, strict=False):
            for p in (p for p in group["params"] if p.grad is not None and not p.grad.is_sparse):
                first, second, step = self._moments.get(id(p), (torch.zeros_like(p), torch.zeros_like(p), 0))
                grad = p.grad / grad_scale
                first.lerp_(grad, 1 - BETA1)
                second.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
                self._moments[id(p)] = (first, second, step + 1)
                scale = self.lr / base / (1 - BETA1 ** (step + 1)) * grad_scale
                p.grad.copy_(scale * first / ((second / (1 - BETA2 ** (step + 1))).sqrt() + EPS))

    def moments(self, param: Tensor) -> tuple[Tensor, ...]:
        """The two moments of a parameter; empty before its first step."""
        return self._moments[id(param)][:2] if id(param) in self._moments else ()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors, in the optimizer's order of parameters."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        known = [(i, *self._moments[id(p)]) for i, p in enumerate(params) if id(p) in self._moments]
        return {
            "lr": self.lr,
            "base": list(self._base),
            "moments": [[i, a.clone(), b.clone(), n] for i, a, b, n in known],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        if not isinstance(self.optimizer, SGD):
            return
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {id(params[i]): (a.clone(), b.clone(), int(n)) for i, a, b, n in state["moments"]}
        self.lr, self._base, self._moments = float(state["lr"]), list(state["base"]), moments
