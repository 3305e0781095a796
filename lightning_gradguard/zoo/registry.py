"""Finds the cases: modules of this folder with a `CASE`, and plug-ins."""

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


@cache
def _own_cases() -> tuple[Case, ...]:
    modules = (
        importlib.import_module(f"{__package__}.cases.{name}") for _, name, _ in pkgutil.iter_modules([str(FOLDER)])
    )
    return tuple(module.CASE for module in modules if hasattr(module, "CASE"))


def list_cases() -> list[Case]:
    """Every case: the zoo's own by name, then those of installed plug-ins.

    A plug-in that cannot be loaded, is no case, or takes a name that exists is reported by name and left out.

    Example:
        >>> [case.name for case in list_cases()][:2]
        ['batch_too_small', 'dead_relu']
    """
    cases = {case.name: case for case in sorted(_own_cases(), key=lambda case: case.name)}
    for name, loaded in load_plugins("lightning_gradguard.zoo").items():
        case: Any = getattr(loaded, "CASE", loaded)
        if not isinstance(case, Case):
            warnings.warn(f"the plug-in case {name!r} is left out: {loaded!r} is no zoo.Case.", stacklevel=2)
        elif case.name in cases:
            warnings.warn(f"the plug-in case {name!r} is left out: the name {case.name!r} is taken.", stacklevel=2)
        else:
            cases[case.name] = case
    return list(cases.values())


def get_case(name: str) -> Case:
    """The case of that name.

    Args:
        name: As `gradguard zoo list` shows it.

    Raises:
        KeyError: If there is none; the message lists all.
    """
    own = {case.name: case for case in _own_cases()}
    cases = own if name in own else {case.name: case for case in list_cases()}
    if name not in cases:
        raise KeyError(f"the zoo has no case {name!r}; it has: {', '.join(cases)}")
    return cases[name]
