"""The parts of a zoo case: a training program that fails, the symptom of the failure, and cures."""

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
from lightning_gradguard.renamed import renamed_attributes, renamed_fields
from lightning_gradguard.zoo.learner import Learner

if TYPE_CHECKING:
    from lightning_gradguard.zoo.running import Run


@dataclass
class Program:
    """A training run, ready to start. A cure changes it in place.

    Args:
        module: The module to train.
        train: Training batches `(inputs, targets)`.
        valid: Validation batches `(inputs, targets)`.
        max_steps: Number of optimizer steps.
        trainer: More arguments for the Trainer.
    """

    module: Learner
    train: DataLoader[Any]
    valid: DataLoader[Any]
    max_steps: int
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def net(self) -> nn.Module:
        """The network, to which fixes of the model are applied."""
        return self.module.net

    @property
    def example(self) -> Tensor:
        """The inputs of the first two validation samples."""
        inputs: Tensor = next(iter(self.valid))[0][:2]
        return inputs

    def tune(self, edit: Callable[[Optimizer], Changes]) -> Changes:
        """Applies a fix to every optimizer that the module creates, and to a first one now for the list of changes."""
        self.module.edits.append(edit)
        trial = self.module.optimizer_factory(self.net.parameters())
        return edit(trial)

    def switch(self, new: type[Optimizer], **settings: Any) -> Changes:
        """Replaces the optimizer."""
        old = self.module.optimizer_factory
        self.module.optimizer_factory = lambda p: fixes.switch_optimizer(old(p), new, **settings).optimizer
        return fixes.switch_optimizer(old(self.net.parameters()), new, **settings).changes

    def warm_up(self, steps: int) -> Changes:
        """Increases the learning rate linearly over the first steps, with torch's `LinearLR`."""
        self.module.warmup_steps = steps
        return (Change("lr_scheduler", "none", f"linear warmup over {steps} steps"),)

    def rebatch(self, batch_size: int) -> Changes:
        """Replaces the batch size."""
        self.train, changes = fixes.set_batch_size(self.train, batch_size)
        return changes


def on_optimizer(fix: Callable[..., Changes], *args: Any, **settings: Any) -> Callable[[Program], Changes]:
    """A cure that applies a fix to the optimizer: `on_optimizer(fixes.clip_by_norm, 1.0)`."""
    return lambda program: program.tune(lambda optimizer: fix(optimizer, *args, **settings))


def on_net(fix: Callable[..., Changes], *args: Any, **settings: Any) -> Callable[[Program], Changes]:
    """A cure that applies a fix to the network and an example batch: `on_net(fixes.he, seed=0)`."""
    return lambda program: fix(program.net, program.example, *args, **settings)


def swap_activations(
    new: Callable[[], nn.Module], init: Callable[..., Changes] | None = None
) -> Callable[[Program], Changes]:
    """A cure that replaces the activations and, with `init`, re-initializes the weights for the new ones."""

    def cure(program: Program) -> Changes:
        changes = fixes.replace_activations(program.net, program.example, new)
        return changes + (init(program.net, program.example, seed=0) if init else ())

    return cure


@renamed_attributes(sick="is_present")
@renamed_fields(what="description")
@dataclass(frozen=True)
class Symptom:
    """A number that distinguishes the failing program from a cured one.

    Args:
        description: What the number is, with its unit.
        measure: Computes the number from a finished run.
        limit: The symptom is present beyond this value.
        above: Whether "beyond" means above the limit; otherwise below.
    """

    description: str
    measure: Callable[[Run], float]
    limit: float
    above: bool = True

    def is_present(self, value: float) -> bool:
        """Whether `value` shows the symptom. NaN, which cannot be compared, does.

        Example:
            >>> Symptom("fraction of dead units", lambda run: 0.0, limit=0.5).is_present(0.7)
            True
        """
        return math.isnan(value) or (value > self.limit if self.above else value < self.limit)


@renamed_fields(rows="advice")
@dataclass(frozen=True)
class Cure:
    """A published way to repair the broken program.

    Args:
        apply: Changes the program with functions of `lightning_gradguard.fixes` and returns what they changed.
        advice: The published advice that it follows, as rows of `docs/documents.md`, e.g. `"F4"`.
        holds: Whether the cure works in this case. If not, the case's card says so, and a test checks that it still
            does not.
    """

    apply: Callable[[Program], Changes]
    advice: tuple[str, ...] = ()
    holds: bool = True


@renamed_attributes(documented="covers")
@renamed_fields(rows="statements")
@dataclass(frozen=True)
class Case:
    """A training program that fails in one way, with its cures.

    Args:
        name: Its name, as in `gradguard zoo run NAME`.
        title: A description in one line.
        kind: The kind of the finding that GradGuard reports.
        symptom: How the case measures the failure, independently of GradGuard.
        build: Builds the broken program from a seed.
        cures: The cures by name.
        metric: Name of the final metric.
        margin: How much better a cured run's metric must be than the broken run's.
        statements: The published statements that the broken program demonstrates, as rows of `docs/documents.md`,
            e.g. `"S1"`.
        higher: Whether a larger metric is better.
        layers: Regular expression that every layer reported by GradGuard must match.
    """

    name: str
    title: str
    kind: str
    symptom: Symptom
    build: Callable[[int], Program]
    cures: Mapping[str, Cure]
    metric: str
    margin: float
    statements: tuple[str, ...] = ()
    higher: bool = True
    layers: str = ".*"

    @property
    def card(self) -> str:
        """The docstring of the case's module: symptom, cause, cures, references."""
        return (sys.modules[self.build.__module__].__doc__ or self.title).strip()

    @property
    def covers(self) -> tuple[str, ...]:
        """The rows of `docs/documents.md` that this case tests: its statements, and the advice of its cures."""
        return tuple(dict.fromkeys([*self.statements, *(row for cure in self.cures.values() for row in cure.advice)]))

    def gain(self, broken: float, cured: float) -> float:
        """How much better the cured metric is: -inf if it is NaN, else inf if the broken run's is NaN.

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
