"""Faults for `chaos.py`: what is spoiled, how, and at which steps.

Names read "place, what happens, when". `TRANSIENT` faults end, so that a run can recover from them; `PERMANENT` faults
go on until the end of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

#: Steps of a run, the step at which most faults strike, and the length of an epoch.
STEPS, MID, EPOCH = 210, 110, 42
LAST, FOREVER = STEPS - 1, range(10**6)

Edit = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Fault:
    """A fault of one run; each function is called at the steps where it strikes.

    Args:
        steps: When it strikes.
        batch: Changes inputs and labels in place.
        loss: Returns another loss.
        gradients: Changes the gradients in place; a list in the order of the parameters.
        state: Changes weights, buffers, optimizer state or settings before the step's batch.
    """

    steps: Iterable[int] = FOREVER
    batch: Callable[[Tensor, Tensor], Any] | None = None
    loss: Callable[[Tensor, int], Tensor] | None = None
    gradients: Callable[[list[Tensor]], Any] | None = None
    state: Callable[[pl.LightningModule, int], Any] | None = None

    def strikes(self, step: int) -> bool:
        """Whether the fault strikes at a step."""
        return step in self.steps


class Injector(pl.Callback):
    """Applies a fault to batches, gradients and state; the module applies it to the loss."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.step = fault, -1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.step += 1
        if self.fault.state is not None and self.fault.strikes(self.step):
            with torch.no_grad():
                self.fault.state(pl_module, self.step)
        if self.fault.batch is not None and self.fault.strikes(self.step):
            self.fault.batch(*batch)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if self.fault.gradients is not None and self.fault.strikes(self.step):
            self.fault.gradients([p.grad for p in pl_module.parameters() if p.grad is not None])


def burst(length: int, start: int = MID) -> range:
    """Steps in a row."""
    return range(start, start + length)


# ---------------------------------------------------------------- what happens to a tensor


def fill(value: float) -> Edit:
    return lambda tensor: tensor.fill_(value)


def times(factor: float) -> Edit:
    return lambda tensor: tensor.mul_(factor)


def element(value: float, index: int = 100) -> Edit:
    """Sets one element."""
    return lambda tensor: tensor.view(-1)[index % tensor.numel()].fill_(value)


def flip(bit: int, index: int = 130) -> Edit:
    """Flips one bit of one element: 31 is the sign, 30 the highest bit of the exponent."""

    def edit(tensor: Tensor) -> None:
        word = tensor.view(-1)[index % tensor.numel()].view(torch.int32)
        word.bitwise_xor_(torch.tensor(-(2**31) if bit == 31 else 1 << bit, dtype=torch.int32))

    return edit


def noise(tensor: Tensor) -> None:
    """Replaces everything by noise, always the same."""
    tensor.copy_(3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)))


# ---------------------------------------------------------------- where it happens


def inputs(edit: Edit, steps: Iterable[int]) -> Fault:
    return Fault(steps, batch=lambda x, y: edit(x))


def sample(edit: Edit, steps: Iterable[int]) -> Fault:
    """One sample of the batch."""
    return Fault(steps, batch=lambda x, y: edit(x[3]))


def labels(edit: Edit, steps: Iterable[int]) -> Fault:
    return Fault(steps, batch=lambda x, y: edit(y))


def shuffle(tensor: Tensor) -> None:
    tensor.copy_(tensor[torch.randperm(len(tensor), generator=torch.Generator().manual_seed(int(tensor.sum())))])


def gradients(edit: Edit, steps: Iterable[int], which: slice = slice(None)) -> Fault:
    return Fault(steps, gradients=lambda grads: [edit(grad) for grad in grads[which]])


def weights(edit: Edit, steps: Iterable[int], which: slice = slice(1)) -> Fault:
    """The first parameter by default."""
    return Fault(steps, state=lambda module, step: [edit(p.data) for p in list(module.parameters())[which]])


def moments(edit: Edit, key: str) -> Fault:
    """The optimizer's state `key` of the first parameter; its largest other state where there is no such key."""

    def state(module: pl.LightningModule, step: int) -> None:
        kept = module.trainer.optimizers[0].state[next(module.parameters())]
        tensors = [value for value in kept.values() if isinstance(value, Tensor) and value.ndim]
        if tensors:
            edit(kept[key] if key in kept else max(tensors, key=Tensor.numel))

    return Fault([MID], state=state)


def forget(module: pl.LightningModule, step: int) -> None:
    """The optimizer's state is lost."""
    module.trainer.optimizers[0].state.clear()


def buffers(edit: Edit, name: str, step: int = MID) -> Fault:
    """A buffer of the first BatchNorm; of a network without one the first parameter stays as it is."""

    def state(module: pl.LightningModule, _: int) -> None:
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        if norms:
            edit(getattr(norms[0], name))

    return Fault([step], state=state)


def rate(factor: Callable[[int], float]) -> Fault:
    """The learning rate is multiplied by what `factor` says for a step."""

    def state(module: pl.LightningModule, step: int) -> None:
        for group in module.trainer.optimizers[0].param_groups:
            group["lr"] = group.setdefault("first_lr", group["lr"]) * factor(step)

    return Fault(state=state)


def from_on(value: float, start: int = MID, end: int = 10**6) -> Callable[[int], float]:
    """`value` for steps from `start` to before `end`, else 1."""
    return lambda step: value if start <= step < end else 1.0


def growing(pace: float, most: float, start: int = 60) -> Callable[[int], float]:
    """Grows by `pace` a step from `start` on, up to `most`."""
    return lambda step: min(most, pace ** max(0, step - start))


def loss(change: Callable[[Tensor, int], Tensor], steps: Iterable[int] = FOREVER) -> Fault:
    return Fault(steps, loss=change)


NAN, INF, ALL = math.nan, math.inf, slice(None)

#: Faults that end.
TRANSIENT: dict[str, Fault] = {
    # inputs
    **{f"inputs NaN at {at}": inputs(fill(NAN), [at]) for at in (0, 1, MID, LAST)},
    **{f"inputs NaN for {n} at {MID}": inputs(fill(NAN), burst(n)) for n in (5, 11, 20, 50)},
    **{f"inputs NaN for {n} at 0": inputs(fill(NAN), burst(n, 0)) for n in (5, 11, 20)},
    **{f"inputs NaN every {n}": inputs(fill(NAN), range(0, STEPS, n)) for n in (2, 3, 10)},
    "inputs NaN around an epoch": inputs(fill(NAN), [EPOCH - 1, EPOCH, 2 * EPOCH - 1, 2 * EPOCH]),
    "inputs NaN in one sample": sample(fill(NAN), [MID]),
    "inputs NaN in one sample every 5": sample(fill(NAN), range(2, STEPS, 5)),
    **{f"inputs Inf at {at}": inputs(fill(INF), [at]) for at in (0, MID)},
    **{f"inputs x1e4 at {at}": inputs(times(1e4), [at]) for at in (0, 1, MID, LAST)},
    "inputs x1e4 for 10": inputs(times(1e4), burst(10)),
    "inputs x1e4 every 9": inputs(times(1e4), range(4, STEPS, 9)),
    "inputs x1e4 in one sample": sample(times(1e4), [MID]),
    "inputs x100": inputs(times(1e2), [MID]),
    "inputs x100 for 10": inputs(times(1e2), burst(10)),
    "inputs x1e38": inputs(times(1e38), [MID]),
    "inputs zero for 10": inputs(fill(0), burst(10)),
    "inputs noise for 10": inputs(noise, burst(10)),
    "inputs noise for 30": inputs(noise, burst(30)),
    # labels
    **{f"labels shuffled for {n}": labels(shuffle, burst(n)) for n in (10, 30)},
    "labels shuffled for 10 at 0": labels(shuffle, burst(10, 0)),
    "labels constant for 20": labels(fill(0), burst(20)),
    # gradients
    **{f"gradients NaN at {at}": gradients(fill(NAN), [at]) for at in (0, MID, LAST)},
    "gradients NaN in the first parameter": gradients(fill(NAN), [MID], slice(1)),
    "gradients NaN in the last parameter": gradients(fill(NAN), [MID], slice(-1, None)),
    "gradients NaN in one element": gradients(element(NAN), [MID], slice(1, 2)),
    "gradients Inf": gradients(fill(INF), [MID]),
    **{f"gradients x{f:g}": gradients(times(f), [MID]) for f in (1e2, 1e4, 1e8, 1e20, 1e37)},
    **{f"gradients x1e4 at {at}": gradients(times(1e4), [at]) for at in (0, 1, LAST)},
    **{f"gradients x1e30 at {at}": gradients(times(1e30), [at]) for at in (0, 1, 5, 10, 26)},
    "gradients x1e4 for 10": gradients(times(1e4), burst(10)),
    "gradients x1e30 every 7": gradients(times(1e30), range(5, STEPS, 7)),
    "gradients x100 in the first parameter": gradients(times(1e2), [MID], slice(1)),
    "gradients x1e6 in a bias": gradients(times(1e6), [MID], slice(1, 2)),
    "gradients of the other sign for 5": gradients(times(-1), burst(5)),
    "gradients zero for 10": gradients(fill(0), burst(10)),
    # weights
    "weights NaN": weights(fill(NAN), [MID]),
    **{f"weights with one NaN at {at}": weights(element(NAN), [at]) for at in (0, 3, MID, LAST)},
    "weights with one Inf": weights(element(INF), [MID]),
    "weights with one 1e6": weights(element(1e6), [MID]),
    "weights with the top exponent bit flipped": weights(flip(30), [MID]),
    "weights with the second exponent bit flipped": weights(flip(29), [MID]),
    "weights with a sign flipped": weights(flip(31), [MID]),
    "weights of the last layer with a bit flipped": weights(flip(30, 30), [MID], slice(-2, -1)),
    "weights with a bit flipped at the last step": weights(flip(30), [LAST]),
    "weights x100": weights(times(1e2), [MID]),
    "weights x10, all": weights(times(10), [MID], ALL),
    "weights x0.1, all": weights(times(0.1), [MID], ALL),
    "weights zero, all": weights(fill(0), [MID], ALL),
    "weights drawn anew, all": weights(lambda t: t.normal_(0, 0.1), [MID], ALL),
    # optimizer state
    "first moment NaN": moments(fill(NAN), "exp_avg"),
    "first moment with one NaN": moments(element(NAN), "exp_avg"),
    "first moment 1e6": moments(fill(1e6), "exp_avg"),
    "first moment with a bit flipped": moments(flip(30, 70), "exp_avg"),
    "second moment zero": moments(fill(0), "exp_avg_sq"),
    "second moment negative": moments(times(-1), "exp_avg_sq"),
    "second moment NaN": moments(fill(NAN), "exp_avg_sq"),
    "second moment Inf": moments(fill(INF), "exp_avg_sq"),
    "second moment x1e6": moments(times(1e6), "exp_avg_sq"),
    "optimizer state lost": Fault([MID], state=forget),
    # buffers
    "running mean NaN": buffers(fill(NAN), "running_mean"),
    "running variance with one NaN": buffers(element(NAN, 0), "running_var"),
    "running variance with a bit flipped": buffers(flip(30, 0), "running_var"),
    "running variance negative": buffers(times(-1), "running_var"),
    "running mean 1e6": buffers(fill(1e6), "running_mean"),
    "running variance with a bit flipped at the last step": buffers(flip(30, 0), "running_var", LAST),
    "running mean NaN at the last step": buffers(fill(NAN), "running_mean", LAST),
    # learning rate
    **{f"learning rate x{f:g} for one step": rate(from_on(f, MID, MID + 1)) for f in (1e3, NAN, INF)},
    "learning rate negative for 3": rate(from_on(-1, MID, MID + 3)),
    "learning rate x100 for 20": rate(from_on(100, MID, MID + 20)),
    "learning rate zero for 20": rate(from_on(0, MID, MID + 20)),
    # loss
    "loss NaN once": loss(lambda value, step: value * NAN, [MID]),
    "loss Inf for 3": loss(lambda value, step: value * INF, burst(3)),
    "loss zero every 5": loss(lambda value, step: value * 0, range(2, STEPS, 5)),
    "loss - 100": loss(lambda value, step: value - 100),
    "loss + 1e5": loss(lambda value, step: value + 1e5),
    "loss x1e6": loss(lambda value, step: value * 1e6),
    "loss x1e-6": loss(lambda value, step: value * 1e-6),
    "loss grows 3 % a step": loss(lambda value, step: value * 1.03**step),
}  # fmt: skip

#: Faults that do not end.
PERMANENT: dict[str, Fault] = {
    **{f"inputs NaN from {at} on": inputs(fill(NAN), range(at, STEPS)) for at in (0, 100)},
    "inputs NaN in 9 of 10": inputs(fill(NAN), [n for n in range(STEPS) if n % 10]),
    "inputs NaN in 49 of 50": inputs(fill(NAN), [n for n in range(STEPS) if n % 50]),
    "inputs x1e4 from 100 on": inputs(times(1e4), range(100, STEPS)),
    "labels shuffled from 100 on": labels(shuffle, range(100, STEPS)),
    "gradients NaN from 100 on": gradients(fill(NAN), range(100, STEPS)),
    "gradients NaN in the first parameter from 100 on": gradients(fill(NAN), range(100, STEPS), slice(1)),
    "gradients NaN but every 11": gradients(fill(NAN), [n for n in range(STEPS) if n % 11]),
    "gradients x1e6 every other step from 100 on": gradients(times(1e6), range(100, STEPS, 2)),
    "gradients of the other sign from 100 on": gradients(times(-1), range(100, STEPS)),
    "weights with one NaN every 5": weights(element(NAN), range(100, STEPS, 5)),
    "weights with one NaN every 60": weights(element(NAN), range(60, STEPS, 60)),
    **{f"learning rate x{f:g} from {MID} on": rate(from_on(f)) for f in (10, 100, 1000)},
    "learning rate zero from 110 on": rate(from_on(0)),
    "learning rate grows 5 % a step to x10": rate(growing(1.05, 10)),
    "learning rate grows 8 % a step to x1000": rate(growing(1.08, 1000)),
    "loss NaN": loss(lambda value, step: value * NAN),
    "loss zero": loss(lambda value, step: value * 0),
    "loss constant": loss(lambda value, step: value * 0 + 3.0),
}  # fmt: skip

FAULTS = TRANSIENT | PERMANENT
