"""What the guard asks of a Trainer."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import nn

from lightning_gradguard.tensors.processes import ProcessGroupInfo

#: Where Lightning's own, empty hooks live, in either namespace.
UNTOUCHED = (".core.hooks", ".core.module", ".callbacks.callback")


def can_act(trainer: Any) -> bool:
    """Whether the strategy leaves the step to the optimizer; DeepSpeed's engine does not."""
    return "DeepSpeed" not in type(trainer.strategy).__name__


def reads_last(guard: Any, trainer: Any, pl_module: Any) -> bool:
    """Whether nobody but Lightning's own clipping reads the gradients between the guard and the optimizer."""
    later = trainer.callbacks[trainer.callbacks.index(guard) + 1 :] if guard in trainer.callbacks else trainer.callbacks
    hooks = [getattr(owner, "on_before_optimizer_step", None) for owner in (*later, pl_module)]
    hooks.append(pl_module.configure_gradient_clipping)
    return all(hook is None or hook.__module__.endswith(UNTOUCHED) for hook in hooks)


def ranks_of(trainer: Any, pl_module: Any) -> ProcessGroupInfo:
    """The processes of this trainer; XLA sums by its own means."""
    root = trainer.strategy.model
    root, device = root if isinstance(root, nn.Module) else pl_module, trainer.strategy.root_device
    if trainer.world_size > 1 and not (dist.is_available() and dist.is_initialized()):
        return ProcessGroupInfo(root, trainer.world_size, device, lambda t: trainer.strategy.reduce(t, reduce_op="sum"))
    return ProcessGroupInfo(root, trainer.world_size, device)


def steps_now(trainer: Any) -> bool:
    """Whether the optimizer steps after this batch, as Lightning's own loop asks; False when it cannot be known."""
    accumulates = getattr(trainer.fit_loop, "_should_accumulate", None)
    return accumulates is not None and not accumulates()


def planned_steps(trainer: Any) -> int | None:
    """Optimizer steps that the run is meant to take; None when nothing says."""
    steps = float(trainer.estimated_stepping_batches)
    return int(steps) if 0 < steps < math.inf else None


def logged_metrics(trainer: Any) -> Iterable[Any]:
    """The metrics behind `self.log` in the training loop."""
    return tuple(getattr(trainer.fit_loop.epoch_loop, "_results", {}).values())


def should_log(trainer: Any) -> bool:
    """Whether this is a logging step, as Lightning's own monitors ask."""
    connector = getattr(trainer, "_logger_connector", None)
    if connector is not None and hasattr(connector, "should_update_logs"):
        return bool(connector.should_update_logs)
    return bool(trainer.log_every_n_steps) and trainer.global_step % trainer.log_every_n_steps == 0


def log_step(trainer: Any) -> int:
    """Position on the loggers' step axis, the same as `self.log` uses."""
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def split_loggers(trainer: Any) -> tuple[list[Any], list[Any]]:
    """Writers of TensorBoard's panels, and the Trainer's other loggers."""
    boards: list[Any] = []
    others: list[Any] = []
    for logger in trainer.loggers:
        writer = getattr(logger, "experiment", None)
        if is_summary_writer(writer):
            from lightning_gradguard.tensorboard_plugin.summary import RunWriter

            boards.append(RunWriter(writer))  # type: ignore[arg-type]
        else:
            others.append(logger)
    return boards, others


def is_summary_writer(experiment: Any) -> bool:
    """Whether it writes TensorBoard's files; who does not use TensorBoard need not import it."""
    module = sys.modules.get("torch.utils.tensorboard")
    return module is not None and isinstance(experiment, module.SummaryWriter)
