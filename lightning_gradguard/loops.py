"""GradGuard in a training loop of your own: plain PyTorch, or Lightning Fabric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace, TracebackType
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard.arguments import require, require_number
from lightning_gradguard.callback import GradGuard

#: What a loop has of a LightningModule. It is put on the model for the length of the loop.
MANUAL = "automatic_optimization"


class GuardedLoop(AbstractContextManager["GuardedLoop"]):
    """A training loop whose steps a `GradGuard` watches and repairs, as it does in a Trainer.

    The guard hears of the loop through its own hooks: there is one implementation. What needs a `training_step` that
    can be called again is missing here: experiments (`"repair"` acts like `"protect"`, with a warning), activation
    statistics, and measuring the last healthy batch again.

    Args:
        guard: The guard; its incidents, report and changes are read from it.
        model: The model, also as `fabric.setup` returns it.
        optimizer: Its optimizer, also as `fabric.setup` returns it.
        total_steps: Optimizer steps that the run is meant to take; None when that is not known.
        logger: A logger of Lightning, such as `TensorBoardLogger("lightning_logs")`; without one no files are
            written, unless the guard has a `log_dir`.
        log_every_n_steps: Steps between two written ones. Default as in Lightning's Trainer.
        fabric: The Fabric that has set up model and optimizer, if one has.
        read_later: Whether something reads or clips the gradients between `judge` and the optimizer's step, so that a
            clip of the guard has to be in them by then.

    Raises:
        ValueError: If `guard` is no `GradGuard`, if a count is not positive, if Fabric scales the loss (`16-mixed`), or
            if several processes train together.

    Attributes:
        global_step: Optimizer steps so far, skipped ones included.
        should_stop: Whether the guard has restored the last good weights and asks to end the run.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batches = [torch.ones(4, 2), torch.full((4, 2), torch.nan), torch.ones(4, 2)]
        >>> guard = GradGuard()
        >>> with GuardedLoop(guard, model, optimizer, total_steps=3) as loop:
        ...     for x in loop.batches(batches):
        ...         loop.backward(model(x).square().mean())
        ...         loop.step()
        >>> [(incident.kind, incident.actions) for incident in guard.incidents][0]
        ('nonfinite', ('SkipStep',))
        >>> bool(torch.isfinite(model.weight).all())
        True
    """

    def __init__(
        self,
        guard: GradGuard,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        total_steps: int | None = None,
        logger: Any = None,
        log_every_n_steps: int = 50,
        fabric: Any = None,
        read_later: bool = False,
    ) -> None:
        require(isinstance(guard, GradGuard), "GuardedLoop(guard=...)", "must be a GradGuard", guard)
        if total_steps is not None:
            require_number("GuardedLoop(total_steps=...)", total_steps, at_least=1, whole=True)
        require_number("GuardedLoop(log_every_n_steps=...)", log_every_n_steps, at_least=1, whole=True)
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        require(not several, "GuardedLoop(...)", "works in one process; use a Trainer for several", "several processes")
        scaler = getattr(getattr(fabric, "_precision", None), "scaler", None)
        require(scaler is None, "GuardedLoop(fabric=...)", "must not scale the loss; use bf16-mixed", "16-mixed")
        self.guard, self.fabric, self._steps_with = guard, fabric, optimizer
        self.model: nn.Module = getattr(model, "_forward_module", model) if fabric is not None else model
        inner: Optimizer = getattr(optimizer, "optimizer", optimizer) if fabric is not None else optimizer
        self._trainer = LoopTrainer(guard, self.model, inner, total_steps, logger, log_every_n_steps)
        self._batch: Any = None
        self._loaded: dict[str, Any] = {}
        if read_later:
            self._trainer.callbacks.append(SimpleNamespace(on_before_optimizer_step=self.judge))

    @property
    def global_step(self) -> int:
        return self._trainer.global_step

    @property
    def should_stop(self) -> bool:
        return self._trainer.should_stop

    def __enter__(self) -> GuardedLoop:
        vars(self.model)[MANUAL] = False
        self.guard.setup(self._trainer, self.model, "fit")
        if self._loaded:  # `setup` forgets what it had before
            self.guard.load_state_dict(self._loaded)
        self.guard.on_train_start(self._trainer, self.model)
        self._trainer.running = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._trainer.running = False
        try:
            if error is None:
                self.guard.on_train_end(self._trainer, self.model)
            else:
                self.guard.on_exception(self._trainer, self.model, error)
            self.guard.teardown(self._trainer, self.model, "fit")
        finally:
            vars(self.model).pop(MANUAL, None)

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """One epoch: hands out the batches of a loader. A batch ends when the next one is asked for.

        Raises:
            RuntimeError: Outside of the `with` block.
        """
        self._check_running()
        for index, batch in enumerate(loader):
            self.begin_batch(batch, index)
            try:
                yield batch
            finally:
                if self._trainer.running:
                    self.end_batch()
        self.end_epoch()

    def begin_batch(self, batch: Any, index: int) -> None:
        """Before the forward pass of the batch with this index in its epoch, in a loop that cannot use `batches`.

        Raises:
            RuntimeError: Outside of the `with` block.
        """
        self._check_running()
        self._trainer.accumulate_grad_batches += 1
        self._batch, self._trainer.fit_loop.epoch_loop.batch_idx = batch, index
        self.guard.on_train_batch_start(self._trainer, self.model, batch, index)

    def end_batch(self) -> None:
        """After the batch, and after the step if one was taken with it.

        Raises:
            RuntimeError: Outside of the `with` block.
        """
        self._check_running()
        index = self._trainer.fit_loop.epoch_loop.batch_idx
        self.guard.on_train_batch_end(self._trainer, self.model, None, self._batch, index)
        self._batch = None

    def end_epoch(self) -> None:
        """After the last batch of an epoch."""
        self._trainer.current_epoch += 1

    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of a loss, and adds them to those that are there.

        Raises:
            RuntimeError: Outside of the `with` block.
        """
        self.take_loss(loss)
        self.fabric.backward(loss) if self.fabric is not None else loss.backward()

    def take_loss(self, loss: Tensor) -> None:
        """Before the backward pass of a loss that something else calls.

        Raises:
            RuntimeError: Outside of the `with` block.
        """
        self._check_running()
        self.guard.on_before_backward(self._trainer, self.model, loss)

    def step(self) -> None:
        """Judges the gradients, lets the optimizer step unless the guard skips it, and clears the gradients.

        Raises:
            RuntimeError: Outside of the `with` block.
        """
        self.judge()
        self._steps_with.step()
        self._steps_with.zero_grad()

    def judge(self) -> None:
        """Judges the gradients for an optimizer that something else steps; a skipped step has no effect then.

        Raises:
            RuntimeError: Outside of the `with` block.
        """
        self._check_running()
        self.guard.on_before_optimizer_step(self._trainer, self.model, self._trainer.optimizers[0])
        self._trainer.global_step += 1
        self._trainer.accumulate_grad_batches = 0

    def state_dict(self) -> dict[str, Any]:
        """The guard's state, to be saved with model and optimizer; weights that are ruined are put right before."""
        self.guard.on_save_checkpoint(self._trainer, self.model, {})
        trainer = self._trainer
        return {"guard": self.guard.state_dict(), "step": trainer.global_step, "epoch": trainer.current_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`, before the `with` block."""
        self._loaded = state["guard"]
        self._trainer.global_step, self._trainer.current_epoch = state["step"], state["epoch"]

    def _check_running(self) -> None:
        if not self._trainer.running:
            raise RuntimeError("`GuardedLoop` works within its `with` block: `with GuardedLoop(...) as loop:`.")


class LoopTrainer:
    """What a guard asks of a Trainer, for a loop in one process."""

    def __init__(
        self, guard: GradGuard, model: nn.Module, optimizer: Optimizer, total_steps: int | None, logger: Any, every: int
    ) -> None:
        device = next((p.device for p in model.parameters()), None)
        self.strategy = LoopStrategy(model, device)
        self.optimizers, self.loggers = [optimizer], [] if logger is None else [logger]
        self.callbacks: list[Any] = [guard]
        self.estimated_stepping_batches = math.inf if total_steps is None else total_steps
        self.precision_plugin = SimpleNamespace(scaler=None)
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_idx=0, val_loop=None))
        self.log_every_n_steps = every
        self.log_dir = getattr(logger, "log_dir", None)
        self.gradient_clip_val = None
        self.accumulate_grad_batches = 0  # batches since the last step
        self.divided_by_hand = True  # a step's losses add up to its mean
        self.world_size, self.global_rank, self.is_global_zero, self.fast_dev_run = 1, 0, True, False
        self.global_step = self.current_epoch = 0
        self.should_stop = self.running = False
        self.callback_metrics: dict[str, Any] = {}
        self.progress_bar_metrics: dict[str, Any] = {}


class LoopStrategy:
    """What a guard asks of a Trainer's strategy."""

    def __init__(self, model: nn.Module, device: Any) -> None:
        self.model, self.root_device = model, device

    def process_dataloader(self, loader: Any) -> Any:
        """The loader as it is."""
        return loader
