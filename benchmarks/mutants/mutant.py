"""A training program as plain parts that an operator can change, and what recipes and operators are."""

from __future__ import annotations

import importlib
import math
import pkgutil
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from chaos_faults import Fault, Injector
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

#: Layers with weights.
LAYERS = (nn.Linear, nn.Conv2d, nn.Embedding)
Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Recipe:
    """A healthy program.

    Args:
        name: Of the file.
        net: Makes the net, with its initial weights.
        data: Makes the training and the held-out tensors, inputs first and targets last.
        loss: Of the net and a batch.
        quality: Of the net on held-out tensors; 1 is perfect, 0 is what a constant answer has.
        settings: Of the optimizer: `kind` ("sgd" or "adam"), `lr`, and others of torch's.
        steps: Optimizer steps.
        batch_size: Samples of a batch.
        schedule: Factor on the learning rate at a share of the run.
        trained_inputs: Whether inputs are numbers that can be scaled; not token ids.
        regression: Whether targets are numbers.
    """

    name: str
    net: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensors, Tensors]]
    loss: Callable[..., Tensor]
    quality: Callable[..., float]
    settings: dict[str, Any]
    steps: int = 240
    batch_size: int = 32
    schedule: Callable[[float], float] = lambda share: 1.0
    trained_inputs: bool = True
    regression: bool = False


@dataclass
class Program:
    """A recipe's parts, to be changed by one operator.

    Args:
        recipe: Where they come from.
        net: The net.
        train: Training tensors.
        held_out: Held-out tensors.
        settings: Of the optimizer.
        loss: Of the net and a batch.
        batch_size: Samples of a batch.
        schedule: Factor on the learning rate at a step.
        shuffle: Whether batches are drawn at random.
        fault: What happens at certain steps.
    """

    recipe: Recipe
    net: nn.Module
    train: Tensors
    held_out: Tensors
    settings: dict[str, Any]
    loss: Callable[..., Tensor]
    batch_size: int
    schedule: Callable[[int], float]
    shuffle: bool = True
    fault: Fault | None = None

    @classmethod
    def of(cls, recipe: Recipe, seed: int) -> Program:
        """The healthy program with a seed."""
        torch.manual_seed(seed)
        train, held_out = recipe.data()
        steps = recipe.steps
        return cls(
            recipe, recipe.net(), train, held_out, dict(recipe.settings), recipe.loss, recipe.batch_size,
            lambda step: recipe.schedule(step / steps),
        )  # fmt: skip

    @property
    def layers(self) -> list[nn.Module]:
        """Every layer with a weight."""
        return [module for module in self.net.modules() if isinstance(module, LAYERS)]

    def loader(self, seed: int) -> DataLoader[Any]:
        """Its training batches."""
        data = TensorDataset(*self.train)
        drawn = torch.Generator().manual_seed(seed)
        return DataLoader(data, self.batch_size, shuffle=self.shuffle, generator=drawn, drop_last=True)

    def quality(self) -> float:
        """On held-out data; 0 when it is not finite."""
        self.net.eval()
        with torch.no_grad():
            found = self.recipe.quality(self.net, *self.held_out)
        return found if math.isfinite(found) else 0.0


class Draw:
    """The random numbers of one mutant."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def between(self, low: float, high: float) -> float:
        """Log-uniform."""
        return math.exp(self.random.uniform(math.log(low), math.log(high)))

    def either_way(self, most: float) -> float:
        """A factor from 1/most to most, log-uniform."""
        return self.between(1 / most, most)

    def step(self, program: Program) -> int:
        """A step between a fifth and four fifths of the run."""
        return round(program.recipe.steps * self.random.uniform(0.2, 0.8))

    def steps(self, program: Program, most: int = 40) -> range:
        """Several steps in a row."""
        first = self.step(program)
        return range(first, first + round(self.between(1, most)))

    def layer(self, program: Program) -> Any:
        """One layer with a weight."""
        return self.random.choice(program.layers)


@dataclass(frozen=True)
class Operator:
    """One kind of mutation.

    Args:
        name: Of the file.
        mutate: Changes a program; returns what it did, with its severity. None where it does not apply.
        kinds: Incidents that name the right cause.
        sudden: Whether it begins within the run.
    """

    name: str
    mutate: Callable[[Program, Draw], str | None]
    kinds: tuple[str, ...]
    sudden: bool = False


def found_in(package: str, constant: str) -> dict[str, Any]:
    """What every file of a folder defines, by the name of the file."""
    folder = importlib.import_module(package).__path__
    names = sorted(info.name for info in pkgutil.iter_modules(folder))
    return {name: getattr(importlib.import_module(f"{package}.{name}"), constant) for name in names}


RECIPES: dict[str, Recipe] = {}
OPERATORS: dict[str, Operator] = {}


def load() -> None:
    """Finds the recipes and operators."""
    RECIPES.update(found_in("healthy", "RECIPE"))
    OPERATORS.update(found_in("operators", "OPERATOR"))


@dataclass(frozen=True)
class Mutant:
    """What a number stands for."""

    number: int
    recipe: str
    operator: str
    seed: int

    @classmethod
    def of(cls, number: int) -> Mutant:
        """Recipe, operator and seed, drawn by the number alone; an operator that does not apply is drawn again."""
        draw = random.Random(number)
        while True:
            recipe, operator = draw.choice(sorted(RECIPES)), draw.choice(sorted(OPERATORS))
            if OPERATORS[operator].mutate(Program.of(RECIPES[recipe], 0), Draw(number)) is not None:
                return cls(number, recipe, operator, draw.randrange(5))

    def program(self, mutated: bool = True) -> tuple[Program, str]:
        """The program, and what was done to it."""
        program = Program.of(RECIPES[self.recipe], self.seed)
        done = OPERATORS[self.operator].mutate(program, Draw(self.number)) if mutated else ""
        return program, done or ""


class Learner(pl.LightningModule):
    """Trains a program."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.net = program.net
        self._parts = program  # not registered a second time

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._parts.loss(self.net, *batch)
        fault = self._parts.fault
        if fault is not None and fault.loss is not None and fault.strikes(self.trainer.global_step):
            loss = fault.loss(loss, self.trainer.global_step)
        return loss

    def configure_optimizers(self) -> Any:
        settings = {key: value for key, value in self._parts.settings.items() if key != "kind"}
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        optimizer = kind[self._parts.settings["kind"]](self.net.parameters(), **settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._parts.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(program: Program, seed: int, callbacks: list[Any], options: dict[str, Any]) -> float:
    """Trains a program with a tool; its quality."""
    pl.seed_everything(seed, verbose=False)
    faults = [Injector(program.fault)] if program.fault is not None else []
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=program.recipe.steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[*faults, *callbacks], **options,
    )  # fmt: skip
    trainer.fit(Learner(program), program.loader(seed))
    return program.quality()


def weights(program: Program) -> Iterator[Tensor]:
    """All that was learned."""
    yield from program.net.state_dict().values()
