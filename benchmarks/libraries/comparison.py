"""Trains one program without a guard, twice, and with each policy, and says what differs."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from recipes.base import digest
from torch import nn

from lightning_gradguard import GradGuard

#: Trains a model with these callbacks, as the library's users do, and returns its module.
Program = Callable[[list[Any]], nn.Module]
#: The programs of the library in question, by the name of the model.
PROGRAMS: dict[str, Program] = {}
POLICIES = ("protect", "repair")
SAME, CHANGED = "same", "changed"
GUARD = "lightning_gradguard"


def program(name: str) -> Callable[[Program], Program]:
    """Registers a program under the name of its model."""

    def register(train: Program) -> Program:
        PROGRAMS[name] = train
        return train

    return register


@dataclass(frozen=True)
class Training:
    """One training: hash of the final weights, time of the processor, what was said, and what was raised."""

    weights: str
    seconds: float
    said: frozenset[str]
    error: str = ""


def train(run: Program, callbacks: list[Any], seed: int) -> Training:
    """Trains in a directory of its own; the same seed gives the same start."""
    from lightning.pytorch import seed_everything

    with in_directory(), listening() as said:
        seed_everything(seed, verbose=False)
        began, weights, error = time.process_time(), "", ""
        try:
            weights = digest({k: v.detach().clone() for k, v in run(callbacks).state_dict().items() if is_tensor(v)})
        except Exception as raised:  # a result: the table shows it
            error = f"{type(raised).__name__}: {raised}"
        return Training(weights, time.process_time() - began, frozenset(said), error)


def is_tensor(value: Any) -> bool:
    """Whether it is a part of the state that has bits to compare: extra state may be anything."""
    return hasattr(value, "detach")


@contextmanager
def in_directory() -> Iterator[None]:
    """Libraries write their logs and checkpoints into the current directory."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        try:
            yield
        finally:
            os.chdir(before)


class Ear(logging.Handler):
    """Collects messages of warnings and errors."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(GUARD):  # the guard's messages tell of incidents, which the table shows
            self.heard.append(record.getMessage())


@contextmanager
def listening() -> Iterator[list[str]]:
    """Every warning and every logged warning, also of libraries that silence them for their users."""
    heard: list[str] = []
    ear, names = Ear(heard), ("", "pytorch_lightning", "lightning", "lightning.pytorch")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *_, **__: heard.append(f"{category.__name__}: {message}")
        warnings.simplefilter("always")
        for name in names:
            logging.getLogger(name).addHandler(ear)
        try:
            yield heard
        finally:
            for name in names:
                logging.getLogger(name).removeHandler(ear)


@dataclass(frozen=True)
class Row:
    """A policy's effect on one program.

    Args:
        library: With its version.
        model: Name of the program.
        policy: Of the guard.
        steps: Optimizer steps that the guard has seen.
        weights: `"same"`, `"changed"`, or why they cannot be compared.
        outcome: Of the guard's report.
        incidents: A sentence each.
        said: Warnings that only the guarded run has.
        error: What was raised.
        ratio: Processor time relative to the run without a guard.
    """

    library: str
    model: str
    policy: str
    steps: int
    weights: str
    outcome: str
    incidents: tuple[str, ...]
    said: tuple[str, ...]
    error: str
    ratio: float

    @property
    def harmless(self) -> bool:
        """Whether the guard has seen the run, has not changed it, and reported nothing."""
        return self.steps > 0 and self.weights != CHANGED and not self.incidents and not self.error


def compare(library: str, model: str, seed: int = 0, policies: Sequence[str] = POLICIES) -> list[Row]:
    """Trains twice without a guard, to know whether the library itself is deterministic, and once with each policy."""
    alone = [train(PROGRAMS[model], [], seed) for _ in range(2)]
    if alone[0].error:
        raise RuntimeError(f"{model} of {library} does not train without a guard: {alone[0].error}")
    rows = []
    for policy in policies:
        guard = GradGuard(policy)
        guarded = train(PROGRAMS[model], [guard], seed)
        rows.append(row_of(library, model, guard, alone, guarded))
    return rows


def row_of(library: str, model: str, guard: GradGuard, alone: Sequence[Training], guarded: Training) -> Row:
    """What the guard saw, and what is different from a run without it."""
    new = guarded.said - alone[0].said - alone[1].said
    report, first, second = guard.report(), *alone
    same = SAME if guarded.weights == first.weights else CHANGED
    return Row(
        library,
        model,
        guard.policy.name,
        report.steps,
        same if first.weights == second.weights else "two runs without a guard differ",
        report.outcome,
        tuple(map(str, guard.incidents)),
        tuple(sorted(new)),
        guarded.error,
        guarded.seconds / min(first.seconds, second.seconds),
    )
