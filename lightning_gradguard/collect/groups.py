"""COLLECT: groups of parameters that a user names by regular expressions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gradguard.arguments import require
from lightning_gradguard.collect.layers import Layers, ParamTable, clean_parameters
from lightning_gradguard.tensors.norms import Floats


class Part:
    """The parameters of one optimizer whose names match a regular expression.

    Args:
        table: The optimizer's parameters.
        regex: Searched for in their names.
        shapes: As in `ParamTable`.
    """

    def __init__(self, table: ParamTable, regex: str, shapes: Callable[[Tensor], Sequence[torch.Size]]) -> None:
        self._where: NDArray[np.intp] = np.array([i for i, n in enumerate(table.names) if re.search(regex, n)], np.intp)
        self.params = [table.params[i] for i in self._where]
        named = [(table.names[i], table.params[i]) for i in self._where]
        self._table = ParamTable(named, self.params, shapes, table.layers.types)

    def norm(self, norms: Floats, scale: float) -> float:
        """L2 norm of its gradients as one vector, from those of all tensors, `[T]`; NaN where one is not finite."""
        norm = math.hypot(*norms[self._where].tolist()) / scale
        return norm if math.isfinite(norm) else math.nan

    def per_layer(self, norms: Floats, scale: float) -> tuple[Layers, Floats]:
        """Its layers, and the norm of each of them."""
        return self._table.layers, self._table.per_layer(norms[self._where], scale)


def check_groups(call: str, groups: object) -> dict[str, str]:
    """Names with regular expressions, as a dict.

    Args:
        call: How they were given, for the error.
        groups: What was given; None for none.

    Raises:
        ValueError: If they are not a mapping of text to regular expressions.

    Example:
        >>> check_groups("GradGuard(groups=...)", {"head": "("})
        Traceback (most recent call last):
        ValueError: `GradGuard(groups=...)['head']` must be a regular expression, got '('.
    """
    given = {} if groups is None else groups
    rule = "must be a mapping of names to regular expressions"
    require(isinstance(given, Mapping), call, rule, given)
    assert isinstance(given, Mapping)
    for name, regex in given.items():
        require(isinstance(name, str) and name != "", call, rule, given)
        check_regex(f"{call}[{name!r}]", regex)
    return dict(given)


def check_regex(call: str, regex: object) -> None:
    """Raises a ValueError unless `regex` is a regular expression."""
    try:
        sound = isinstance(regex, str) and regex != "" and re.compile(regex) is not None
    except re.error:
        sound = False
    require(sound, call, "must be a regular expression", regex)


def check_matches(call: str, groups: Mapping[str, str], names: Iterable[str]) -> None:
    """Raises unless every group has a parameter, and no parameter is in two groups.

    Args:
        call: How the groups were given, for the error.
        groups: Regular expressions by name.
        names: Names of all parameters.

    Raises:
        ValueError: If a group has none, or shares one.

    Example:
        >>> check_matches("GradGuard(groups=...)", {"head": "^haed"}, ["0.weight", "head.weight"])
        Traceback (most recent call last):
        ValueError: `GradGuard(groups=...)['head']` must match the name of a parameter, such as '0.weight', got '^haed'.
    """
    names, group_of = list(names), dict[str, str]()
    for group, regex in groups.items():
        found = [name for name in names if re.search(regex, name)]
        example = f", such as {names[0]!r}" if names else ""
        require(bool(found), f"{call}[{group!r}]", f"must match the name of a parameter{example}", regex)
        for name in found:
            other = group_of.setdefault(name, group)
            rule = f"must match no parameter of another group, but {name!r} is also in {other!r}"
            require(other == group, f"{call}[{group!r}]", rule, regex)


def parameter_names(module: nn.Module) -> list[str]:
    """The names that regular expressions are searched in."""
    return [name for name, _ in clean_parameters(module)]
