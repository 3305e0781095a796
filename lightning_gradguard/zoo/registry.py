"""Finds the cases: the modules in `cases/`, and those of other packages."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from lightning_gradguard.plugins import load_plugins
from lightning_gradguard.zoo.base import Case

FOLDER = Path(__file__).parent / "cases"
#: Former name -> current name. The former names work for one release, with a warning.
RENAMED = {"unnormalised_inputs": "unnormalized_inputs"}


@cache
def _own_cases() -> tuple[Case, ...]:
    modules = (
        importlib.import_module(f"{__package__}.cases.{name}") for _, name, _ in pkgutil.iter_modules([str(FOLDER)])
    )
    return tuple(module.CASE for module in modules if hasattr(module, "CASE"))


def list_cases() -> list[Case]:
    """Every case: those of this package by name, then those of other installed packages (`gradguard.zoo`).

    Example:
        >>> [case.name for case in list_cases()][:2]
        ['batch_too_small', 'dead_relu']
    """
    own = {case.name: case for case in sorted(_own_cases(), key=lambda case: case.name)}
    return [*own.values(), *(plugin.offer for plugin in load_plugins("gradguard.zoo", _as_case, own).values())]


def _as_case(_: str, loaded: Any) -> tuple[str, Case]:
    case: Any = getattr(loaded, "CASE", loaded)
    if not isinstance(case, Case):
        raise TypeError("a zoo case must be a `zoo.Case`, or a module with one named `CASE`")
    return case.name, case


def get_case(name: str) -> Case:
    """The case with the given name.

    Args:
        name: A name that `gradguard zoo list` shows.

    Raises:
        KeyError: If there is no such case; the message lists all names.
    """
    if name in RENAMED:
        warnings.warn(
            f"The zoo case {name!r} is now {RENAMED[name]!r}; the old name will be removed in the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        name = RENAMED[name]
    own = {case.name: case for case in _own_cases()}
    cases = own if name in own else {case.name: case for case in list_cases()}
    if name not in cases:
        raise KeyError(f"There is no zoo case {name!r}. The cases are: {', '.join(cases)}")
    return cases[name]
