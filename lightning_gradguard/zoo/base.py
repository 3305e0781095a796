"""What a zoo case is: a program that goes wrong, the symptom that shows it, and the cures that are applied to it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_gradguard import fixes
from lightning_gradguard.fixes import Change, Changes
from lightning_gradguard.zoo.learner import Learner

if TYPE_CHECKING:
    from lightning_gradguard.zoo.running import Run


@dataclass
class Program:
    """One training run, ready to start; a cure changes it in place.

    Args:
        module: What is trained.
        train: Training batches `(inputs, targets)`.
        valid: Validation batches.
        max_steps: Optimizer steps.
        trainer: Further arguments for the Trainer.
    """

    module: Learner
    train: DataLoader[Any]
    valid: DataLoader[Any]
    max_steps: int
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def net(self) -> nn.Module:
        """The network, where fixes of the model are applied."""
        return self.module.net

    @property
    def example(self) -> Tensor:
        """Inputs of the first two validation samples."""
        inputs: Tensor = next(iter(self.valid))[0][:2]
        return inputs

    def tune(self, edit: Callable[[Optimizer], Changes]) -> Changes:
        """Applies a fix to the optimizer whenever one is made; tried at once, so that its changes are known."""
        self.module.edits.append(edit)
        trial = self.module.optimizer_factory(self.net.parameters())
        return edit(trial)

    def switch(self, new: type[Optimizer], **settings: Any) -> Changes:
        """Trains with another optimizer."""
        old = self.module.optimizer_factory
        self.module.optimizer_factory = lambda p: fixes.switch_optimizer(old(p), new, **settings).optimizer
        return fixes.switch_optimizer(old(self.net.parameters()), new, **settings).changes

    def warm_up(self, steps: int) -> Changes:
        """Raises the learning rate linearly over the first steps, by torch's `LinearLR`."""
        self.module.warmup_steps = steps
        return (Change("lr_scheduler", "none", f"linear warm-up over {steps} steps"),)

    def rebatch(self, batch_size: int) -> Changes:
        """Trains with another batch size."""
        self.train, changes = fixes.set_batch_size(self.train, batch_size)
        return changes


def on_optimizer(fix: Callable[..., Changes], *args: Any, **settings: Any) -> Callable[[Program], Changes]:
    """A cure that applies a fix of the optimizer: `on_optimizer(fixes.clip_by_norm, 1.0)`."""
    return lambda program: program.tune(lambda optimizer: fix(optimizer, *args, **settings))


def on_net(fix: Callable[..., Changes], *args: Any, **settings: Any) -> Callable[[Program], Changes]:
    """A cure that applies a fix of the net that wants an example: `on_net(fixes.he, seed=0)`."""
    return lambda program: fix(program.net, program.example, *args, **settings)


def swapped(new: Callable[[], nn.Module], init: Callable[..., Changes] | None = None) -> Callable[[Program], Changes]:
    """A cure that replaces the activations and, if asked, initialises for the new ones."""

    def cure(program: Program) -> Changes:
        changes = fixes.replace_activations(program.net, program.example, new)
        return changes + (init(program.net, program.example, seed=0) if init else ())

    return cure


@dataclass(frozen=True)
class Symptom:
    """A number that tells a sick run from a healthy one.

    Args:
        what: The number in words, with its unit.
        measure: Takes a finished run.
        limit: Where sickness begins.
        above: Whether a run is sick above the limit rather than below it.
    """

    what: str
    measure: Callable[[Run], float]
    limit: float
    above: bool = True

    def sick(self, value: float) -> bool:
        """Whether this value is the symptom; what cannot be measured counts as sick.

        Example:
            >>> Symptom("share", lambda run: 0.0, limit=0.5).sick(0.7)
            True
        """
        return math.isnan(value) or (value > self.limit if self.above else value < self.limit)


@dataclass(frozen=True)
class Cure:
    """One way out, applied to the broken program.

    Args:
        apply: Changes the program with functions of `lightning_gradguard.fixes` and returns what they changed.
        rows: The rows of the documents' list that it proves, `"F4"`.
        holds: Whether measurement agrees with the advice here. Where it does not, the case's card says so with
            figures, and a test checks that it still does not.
    """

    apply: Callable[[Program], Changes]
    rows: tuple[str, ...] = ()
    holds: bool = True


@dataclass(frozen=True)
class Case:
    """A problem of the documents as a program that shows it, with its cures.

    Args:
        name: As in `gradguard zoo run NAME`.
        title: One line.
        kind: What a detector of the guard calls the symptom.
        symptom: How the case measures it by itself.
        rows: The rows of the documents' list that the broken form shows, `"S1"`.
        build: Makes the broken program for a seed.
        cures: Each by name.
        metric: Name of the final metric.
        margin: By how much a cure's metric must be better than the broken run's.
        higher: Whether a larger metric is better.
        layers: Regular expression that the layers named by the guard must match, all of them.
    """

    name: str
    title: str
    kind: str
    symptom: Symptom
    rows: tuple[str, ...]
    build: Callable[[int], Program]
    cures: Mapping[str, Cure]
    metric: str
    margin: float
    higher: bool = True
    layers: str = ".*"

    @property
    def card(self) -> str:
        """The case's docstring: symptom, cause, cures, who recommends which numbers, references."""
        return (sys.modules[self.build.__module__].__doc__ or self.title).strip()

    @property
    def documented(self) -> tuple[str, ...]:
        """Every row of the documents' list that this case covers."""
        return tuple(dict.fromkeys([*self.rows, *(row for cure in self.cures.values() for row in cure.rows)]))

    def gain(self, broken: float, cured: float) -> float:
        """By how much the cured metric is better; a broken run that ended in NaN is infinitely worse.

        Example:
            >>> from lightning_gradguard import zoo
            >>> round(zoo.get_case("deep_sigmoid").gain(broken=0.1, cured=0.9), 6)
            0.8
        """
        if math.isnan(cured):
            return -math.inf
        if math.isnan(broken):
            return math.inf
        return cured - broken if self.higher else broken - cured
