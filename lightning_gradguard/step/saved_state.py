"""ACT: a copy of everything that a remedy may change, so that what did not help can be undone."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_gradguard.step.adam_update import AdamUpdate
from lightning_gradguard.step.lr_factor import LRFactor
from lightning_gradguard.step.model_changes import changes_of
from lightning_gradguard.step.snapshots import Snapshots

#: What remedies set in an optimizer's parameter groups.
SETTINGS = ("momentum", "nesterov", "betas", "eps", "weight_decay", "decoupled_weight_decay")


class SavedState:
    """Weights, buffers, optimizer state and settings, learning-rate factor and the modules themselves, as of now.

    Args:
        module: The module in training. Its submodules may be exchanged or wrapped afterwards.
        optimizer: Its optimizer.
        lr_factor: The optimizer's learning-rate factor.
        adam: Adam's update, where it was put in.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid())
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> before = SavedState(net, sgd, LRFactor(sgd), AdamUpdate(sgd))
        >>> net[1], weight = nn.ELU(), net[0].weight.detach().clone()
        >>> _ = nn.init.zeros_(net[0].weight)
        >>> before.restore()
        >>> net[1], bool((net[0].weight == weight).all())
        (Sigmoid(), True)
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer, lr_factor: LRFactor, adam: AdamUpdate) -> None:
        self.optimizer, self.lr_factor, self.adam = optimizer, lr_factor, adam
        self._changes, self._changes_then = changes_of(module), tuple(changes_of(module))
        self._modules = [(m, dict(m._modules), m.__dict__.get("forward")) for m in module.modules()]
        self._settings = [{k: group[k] for k in SETTINGS if k in group} for group in optimizer.param_groups]
        self._lr, self._adam = lr_factor.state_dict(), adam.state_dict()
        self._weights = Snapshots(module, optimizer, keep=1)
        self._weights.take(step=0)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, buffers and optimizer state that are held."""
        return sum(snapshot.nbytes for snapshot in self._weights.ring)

    def restore(self) -> None:
        """Puts all of it back, in place."""
        for module, children, forward in self._modules:
            put_children(module, children)
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward
        self._changes[:] = self._changes_then
        for group, settings in zip(self.optimizer.param_groups, self._settings, strict=True):
            group.update(settings)
        self.lr_factor.load_state_dict(self._lr)
        self.adam.load_state_dict(self._adam)
        self._weights.restore()


def put_children(module: nn.Module, children: dict[str, Any]) -> None:
    """Makes a module's children these again, in their order."""
    module._modules.clear()
    module._modules.update(children)
