"""GradGuard in Hugging Face's `Trainer`: a `TrainerCallback` that drives a `GuardedLoop`."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle
from transformers.trainer_callback import TrainerCallback

from lightning_gradguard.arguments import require
from lightning_gradguard.callback import GradGuard
from lightning_gradguard.loops import GuardedLoop

#: A larger state is saved without its snapshots, in bytes: `trainer_state.json` holds it as text. Chosen.
LARGEST_STATE = 64 * 1024 * 1024


class GradGuardCallback(TrainerCallback):
    """Lets a `GradGuard` watch and repair the steps of Hugging Face's `Trainer`, as it does in a loop of your own.

    The gradients are judged at the end of the backward pass, before the Trainer clips them. The loss is the `loss` that
    the model returns, multiplied as the Trainer does it (accumulation). The guard's state is in each checkpoint's
    `trainer_state.json`, and a resumed run takes it from there.

    Args:
        guard: The guard; its incidents, report and changes are read from it.
        logger: As in `GuardedLoop`.

    Raises:
        ValueError: If `guard` is no `GradGuard`. When training begins: with `fp16`, with several processes or GPUs,
            with DeepSpeed or FSDP, or with `label_smoothing_factor`.
        RuntimeError: If a step used no loss that the model returned: under `compute_loss_func`, or a `compute_loss` of
            your own.

    Example:
        >>> import tempfile
        >>> from transformers import Trainer, TrainingArguments
        >>> class Line(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = nn.Linear(2, 1)
        ...     def forward(self, x):
        ...         return {"loss": self.linear(x).square().mean()}
        >>> data = [{"x": torch.ones(2)}, {"x": torch.full((2,), torch.nan)}, {"x": torch.ones(2)}]
        >>> arguments = TrainingArguments(
        ...     tempfile.mkdtemp(), per_device_train_batch_size=1, num_train_epochs=1, use_cpu=True, report_to=[],
        ...     save_strategy="no", logging_strategy="no", dataloader_pin_memory=False, disable_tqdm=True,
        ... )
        >>> guard = GradGuard()
        >>> model = Line()
        >>> trainer = Trainer(model, arguments, train_dataset=data, callbacks=[GradGuardCallback(guard)])
        >>> _ = trainer.train()
        {'train_runtime': ...}
        >>> [(incident.kind, incident.actions) for incident in guard.incidents][0]
        ('nonfinite', ('SkipStep',))
        >>> bool(torch.isfinite(model.linear.weight).all())
        True
    """

    def __init__(self, guard: GradGuard, logger: Any = None) -> None:
        require(isinstance(guard, GradGuard), "GradGuardCallback(guard=...)", "must be a GradGuard", guard)
        self.guard, self.logger = guard, logger
        self.loop: GuardedLoop | None = None
        self._hooks: list[RemovableHandle] = []
        self._optimizer: Any = None  # Accelerate's
        self._in_step = self._in_batch = self._queued = self._judged = False
        self._index = -1  # of the batch in its epoch

    # ---------------------------------------------------------------- the Trainer's events

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()
        model, self._optimizer = kwargs["model"], kwargs["optimizer"]
        check_run(args, self._optimizer)
        self.loop = GuardedLoop(
            self.guard, model, self._optimizer.optimizer, total_steps=state.max_steps, logger=self.logger,
            log_every_n_steps=max(1, int(state.logging_steps)), read_later=True,
        )  # fmt: skip
        if saved := state.stateful_callbacks.get(self.guard.state_key):
            self.loop.load_state_dict(unpacked(saved["state"]))
        self.loop.__enter__()
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward),
        ]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._index = -1

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._in_step, self._judged = True, False

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end_batch()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._in_step = False
        if self.loop is not None and not self._judged:
            raise RuntimeError(
                f"`GradGuardCallback` reads the `loss` that the model returns, and step {state.global_step} was "
                "computed without it. Let the model compute the loss, not `compute_loss_func` or `compute_loss`."
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end_batch()
        if self.loop is not None and self.loop.should_stop:
            control.should_training_stop = True
        self._prepare_checkpoint(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._prepare_checkpoint(args, state, control)
        if self.loop is not None:
            self.loop.end_epoch()
        if control.should_training_stop:  # before the Trainer loads its best model
            self.close()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the guard's run. Call it when `Trainer.train` has raised an exception; else it is called for you."""
        for hook in self._hooks:
            hook.remove()
        loop, self.loop, self._hooks, self._optimizer = self.loop, None, [], None
        self._in_step = self._in_batch = self._queued = False
        if loop is not None:
            loop.__exit__(None, None, None)

    # ---------------------------------------------------------------- forward and backward pass

    def _before_forward(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.loop is not None and self._in_step and model.training and not self._in_batch:
            self._in_batch = True
            self._index += 1
            self.loop.begin_batch(kwargs or args, self._index)

    def _after_forward(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        loss = loss_of(output)
        if self._in_batch and model.training and loss is not None and loss.requires_grad:
            value = loss.detach()
            loss.register_hook(lambda grad: self._begin_backward(value, grad))

    def _begin_backward(self, loss: Tensor, grad: Tensor) -> None:
        """At the root of the backward pass: the gradient is what the Trainer has multiplied the loss by."""
        if self.loop is None or not self._in_batch:
            return
        self.loop.take_loss((loss * grad).sum())
        if not self._queued and self._optimizer.gradient_state.sync_gradients:
            self._queued = True
            Variable._execution_engine.queue_callback(self._end_backward)

    def _end_backward(self) -> None:
        """Before the Trainer clips, which makes NaN of every gradient where one layer has an Inf."""
        self._queued, self._judged = False, True
        if self.loop is not None:
            self.loop.judge()

    def _end_batch(self) -> None:
        if self.loop is not None and self._in_batch:
            self._in_batch = False
            self.loop.end_batch()

    def _prepare_checkpoint(self, args: Any, state: Any, control: Any) -> None:
        """The Trainer's state is the only thing of a checkpoint that a resumed run shows to a callback."""
        best = control.should_evaluate and args.save_strategy == "best"
        if self.loop is not None and (control.should_save or best):
            state.stateful_callbacks[self.guard.state_key] = {"state": packed(self.loop.state_dict())}


def loss_of(output: Any) -> Tensor | None:
    """The loss in what a model returns, as `Trainer.compute_loss` finds it."""
    if isinstance(output, (tuple, list)):
        loss = output[0] if output else None
    else:
        loss = output.get("loss") if isinstance(output, dict) else None
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None


def check_run(args: Any, optimizer: Any) -> None:
    """Refuses what a guard cannot act in.

    Raises:
        ValueError: See `GradGuardCallback`.
    """
    kind = getattr(getattr(optimizer, "accelerator_state", None), "distributed_type", "NO")
    name = str(getattr(kind, "value", kind))
    one = "works in one process with one GPU; use Lightning's Trainer for more"
    require(name == "NO", "GradGuardCallback(...)", one, name)
    require(args.world_size == 1 and args.n_gpu <= 1, "GradGuardCallback(...)", one, max(args.world_size, args.n_gpu))
    scaled = args.fp16 or getattr(optimizer, "scaler", None) is not None
    require(not scaled, "TrainingArguments(fp16=...)", "must be False with a GradGuardCallback; use bf16", True)
    smoothing = args.label_smoothing_factor
    rule = "must be 0 with a GradGuardCallback, which reads the model's own loss"
    require(smoothing == 0, "TrainingArguments(label_smoothing_factor=...)", rule, smoothing)


def packed(state: dict[str, Any]) -> str:
    """A guard's state as text, for a file of JSON; without its snapshots if they are large."""
    size = sum(t.numel() * t.element_size() for t in tree_leaves(state) if isinstance(t, Tensor))
    if size > LARGEST_STATE:
        engines = state["guard"]["engines"]
        without = {name: {**engine, "snapshots": {}, "states_at": {}} for name, engine in engines.items()}
        state = {**state, "guard": {**state["guard"], "engines": without}}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def unpacked(text: str) -> dict[str, Any]:
    """The reverse of `packed`."""
    state: dict[str, Any] = torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True, map_location="cpu")
    return state
