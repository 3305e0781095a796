"""Whether a value that was read from a file has the type that the code declares."""

from __future__ import annotations

import types
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints


def conforms(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type `hint`, its parts included.

    Args:
        value: A plain value or a dataclass.
        hint: A class, a dataclass, `tuple[X, ...]`, `list[X]`, `X | None`, or an array type.

    Example:
        >>> conforms(("a", "b"), tuple[str, ...]), conforms(("a", 1), tuple[str, ...]), conforms(3, float)
        (True, False, True)
    """
    origin, parts = get_origin(hint), get_args(hint)
    if (meant := getattr(origin or hint, "__value__", None)) is not None:  # numpy 2.5 gives its array types so
        return conforms(value, meant)
    if origin in (Union, types.UnionType):
        return any(conforms(value, part) for part in parts)
    if origin in (tuple, list):
        return isinstance(value, origin) and all(conforms(item, parts[0]) for item in value)
    if isinstance(hint, type) and is_dataclass(hint):
        return isinstance(value, hint) and all(conforms(getattr(value, name), t) for name, t in _hints(hint).items())
    return isinstance(value, (int, float) if hint is float else origin or hint)


@lru_cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)
