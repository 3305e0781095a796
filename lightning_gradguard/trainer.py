"""What the callback asks of a Trainer."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_gradguard import __version__
from lightning_gradguard.collect.followed_sampler import dataset_indices, follow_loader, leave_loader
from lightning_gradguard.findings import Origin
from lightning_gradguard.record.histograms import Histogram
from lightning_gradguard.record.homes import home_of
from lightning_gradguard.tensors.processes import ProcessGroupInfo

#: The packages that a Trainer may come from.
NAMESPACES = ("pytorch_lightning", "lightning.pytorch")


def lightning_classes(module: str, name: str) -> tuple[type, ...]:
    """A class of Lightning in each namespace that is loaded, e.g. `lightning_classes("strategies", "DDPStrategy")`."""
    modules = [sys.modules.get(f"{namespace}.{module}") for namespace in NAMESPACES]
    return tuple(getattr(loaded, name) for loaded in modules if hasattr(loaded, name))


def callback_classes() -> tuple[type, ...]:
    """`Callback` of each namespace that is loaded; of the first installed one, which is imported, when none is.

    A class with the `Callback` of both works in both Trainers and both CLIs. But importing a namespace that the user
    does not use would take over Lightning's log.
    """
    loaded = tuple(sys.modules[name].Callback for name in NAMESPACES if hasattr(sys.modules.get(name), "Callback"))
    installed = (name for name in NAMESPACES if find_spec(name.partition(".")[0]) is not None)
    return loaded or (importlib.import_module(next(installed)).Callback,)


def trainer_class(module: Any) -> Any:
    """The Trainer of the namespace that a module comes from."""
    names = [name for name in NAMESPACES if isinstance(module, getattr(sys.modules.get(name), "LightningModule", ()))]
    if not names:
        raise ValueError(f"`doctor(module)` must be a LightningModule, got {type(module).__name__}.")
    return sys.modules[names[0]].Trainer


def owns_the_step(trainer: Any) -> bool:
    """Whether the strategy keeps gradients and step to itself, as DeepSpeed's engine does."""
    return isinstance(trainer.strategy, lightning_classes("strategies", "DeepSpeedStrategy"))


def is_last_reader(guard: Any, trainer: Any, pl_module: Any) -> bool:
    """Whether nobody but Lightning's own clipping reads the gradients between the guard and the optimizer."""
    later = trainer.callbacks[trainer.callbacks.index(guard) + 1 :] if guard in trainer.callbacks else trainer.callbacks
    owners = (*lightning_classes("callbacks", "Callback"), *lightning_classes("core.module", "LightningModule"))
    hooks = [(owner, "on_before_optimizer_step") for owner in (*later, pl_module)]
    return all(
        is_untouched(owner, hook, owners) for owner, hook in (*hooks, (pl_module, "configure_gradient_clipping"))
    )


def is_untouched(owner: Any, hook: str, classes: tuple[type, ...]) -> bool:
    """Whether a hook is the one of Lightning's own classes."""
    mine = getattr(owner, hook, None)
    return mine is None or getattr(mine, "__func__", mine) in [getattr(cls, hook, None) for cls in classes]


def averages_weights(trainer: Any) -> bool:
    """Whether one of Lightning's callbacks averages the weights during training."""
    kinds = [lightning_classes("callbacks", name) for name in ("WeightAveraging", "StochasticWeightAveraging")]
    return any(isinstance(callback, tuple(cls for kind in kinds for cls in kind)) for callback in trainer.callbacks)


def processes_of(trainer: Any, pl_module: Any) -> ProcessGroupInfo:
    """The processes of this trainer; XLA sums by its own means."""
    root = trainer.strategy.model
    root, device = root if isinstance(root, nn.Module) else pl_module, trainer.strategy.root_device
    if trainer.world_size > 1 and not (dist.is_available() and dist.is_initialized()):
        return ProcessGroupInfo(root, trainer.world_size, device, lambda t: trainer.strategy.reduce(t, reduce_op="sum"))
    return ProcessGroupInfo(root, trainer.world_size, device)


def steps_now(trainer: Any) -> bool:
    """Whether the optimizer steps after this batch, as Lightning's loop decides; False when that is unknown."""
    accumulates = getattr(trainer.fit_loop, "_should_accumulate", None)
    return accumulates is not None and not accumulates()


def origin_of(trainer: Any) -> Origin:
    """When and where the Trainer is; for people, and for no decision."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Origin(now, trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx)


def versions() -> dict[str, str]:
    """Versions of the guard, torch and Lightning."""
    lightning = next(sys.modules[name.partition(".")[0]] for name in NAMESPACES if name in sys.modules)
    return {
        "gradguard": __version__,
        "torch": torch.__version__,
        "lightning": str(getattr(lightning, "__version__", "")),
    }


def planned_steps(trainer: Any) -> int | None:
    """Optimizer steps that the run is meant to take; None when that is unknown."""
    steps = float(trainer.estimated_stepping_batches)
    return int(steps) if 0 < steps < math.inf else None


def logged_metrics(trainer: Any) -> Iterable[Any]:
    """The metrics behind `self.log` in the training loop."""
    return tuple(getattr(trainer.fit_loop.epoch_loop, "_results", {}).values())


def follow_training_data(trainer: Any) -> None:
    """Follows the samplers of the loaders that the strategy sets up from now on, until `leave_training_data`."""
    if "process_dataloader" not in vars(trainer.strategy):
        trainer.strategy.process_dataloader = partial(followed, trainer.strategy.process_dataloader)


def followed(process: Callable[[Any], Any], loader: Any) -> Any:
    """A loader as the strategy sets it up, with its sampler followed."""
    leave_loader(loader)  # Lightning looks at the sampler's class
    loader = process(loader)
    follow_loader(loader)
    return loader


def leave_training_data(trainer: Any) -> None:
    """Undoes `follow_training_data`."""
    vars(trainer.strategy).pop("process_dataloader", None)
    for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop):
        for loader in getattr(getattr(loop, "_combined_loader", None), "flattened", ()):
            leave_loader(loader)


def training_indices(trainer: Any, position: int) -> tuple[int, ...]:
    """Dataset indices of a training batch by its place in the loader's pass; empty where they are not known."""
    combined = getattr(trainer.fit_loop, "_combined_loader", None)
    batches: Any = getattr(getattr(combined, "_iterator", None), "iterators", ())
    return dataset_indices(batches[0], position) if len(batches) == 1 else ()


def should_log(trainer: Any) -> bool:
    """Whether this is a logging step, as Lightning's own monitors decide."""
    connector = getattr(trainer, "_logger_connector", None)
    if connector is not None and hasattr(connector, "should_update_logs"):
        return bool(connector.should_update_logs)
    return bool(trainer.log_every_n_steps) and trainer.global_step % trainer.log_every_n_steps == 0


def metrics_of(trainer: Any, which: Literal["callback_metrics", "progress_bar_metrics"]) -> dict[str, Any]:
    """The Trainer's dictionary that other callbacks monitor, or the one that the progress bar shows, to write into.

    The property of the same name would compute every metric behind `self.log` at each step.
    """
    metrics = getattr(getattr(trainer, "_logger_connector", None), f"_{which}", None)
    return getattr(trainer, which) if metrics is None else metrics  # type: ignore[no-any-return]


def log_step(trainer: Any) -> int:
    """Position on the loggers' step axis, the same as `self.log` uses."""
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def split_loggers(trainer: Any, guard: str = "") -> tuple[list[Any], list[Any]]:
    """Writers of TensorBoard's panels, and the Trainer's other loggers.

    Args:
        trainer: The Trainer.
        guard: The guard's name. One with a name writes an event file of its own, which TensorBoard shows as a run.
    """
    boards: list[Any] = []
    others: list[Any] = []
    for logger in trainer.loggers:
        writer = getattr(logger, "experiment", None)
        if not is_summary_writer(writer):
            others.append(logger)
            continue
        try:
            boards.append(board_writer(writer, guard))
        except Exception as error:  # whatever it is, it is about showing alone
            rank_zero_warn(
                f"GradGuard writes only its curves to TensorBoard ({type(error).__name__}: {error}); the run goes on."
            )
            others.append(logger)
    return boards, others


def histogram_writers(trainer: Any) -> dict[str, Callable[[dict[str, Histogram], int], None]]:
    """What writes histograms, for each logger that can show them."""
    wandb = lightning_classes("loggers", "WandbLogger")
    writers: dict[str, Callable[[dict[str, Histogram], int], None]] = {}
    for logger in trainer.loggers:
        if is_summary_writer(getattr(logger, "experiment", None)):
            writers["TensorBoard's histograms"] = partial(write_histograms, logger.experiment)
        elif isinstance(logger, wandb):
            writers["W&B's histograms"] = partial(log_histograms, logger)
    return writers


def write_histograms(writer: Any, histograms: dict[str, Histogram], x: int) -> None:
    """Into the *Histograms* and *Distributions* of TensorBoard."""
    for name, (edges, counts, total, squares) in histograms.items():
        limits = edges[1:].tolist()
        writer.add_histogram_raw(
            name, edges[0], edges[-1], counts.sum(), total, squares, limits, counts.tolist(), global_step=x
        )


def log_histograms(logger: Any, histograms: dict[str, Histogram], x: int) -> None:
    """Into one step of W&B."""
    from wandb import Histogram as WandbHistogram

    shown = {
        name: WandbHistogram(np_histogram=(made.counts.tolist(), made.edges.tolist()))
        for name, made in histograms.items()
    }
    logger.log_metrics(shown, x)


def board_writer(writer: Any, guard: str) -> Any:
    """Writes the panels of one guard beside what a logger's `SummaryWriter` writes."""
    from torch.utils.tensorboard import SummaryWriter

    from lightning_gradguard.tensorboard_plugin.summary import RunWriter

    if not guard:
        return RunWriter(writer)
    return RunWriter(SummaryWriter(str(home_of(writer.log_dir, guard))), closes=True)


def is_summary_writer(experiment: Any) -> bool:
    """Whether it writes TensorBoard's files; who does not use TensorBoard need not import it."""
    module = sys.modules.get("torch.utils.tensorboard")
    return module is not None and isinstance(experiment, module.SummaryWriter)
