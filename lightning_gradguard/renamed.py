"""Names of the last release, which work with a DeprecationWarning until the next one."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def warn_renamed(owner: str, old: str, new: str) -> None:
    """Warns that a name has a new one."""
    message = f"`{owner}.{old}` is called `{new}` now; the old name will be removed in the next release."
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def renamed_fields(**names: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: old names of fields are taken as arguments and can be read.

    Args:
        names: Old name -> new name.

    Example:
        >>> from dataclasses import dataclass
        >>> @renamed_fields(looks="patience")
        ... @dataclass(frozen=True)
        ... class Detector:
        ...     patience: int = 3
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     print(Detector(looks=5), Detector(5).looks)
        Detector(patience=5) 5
    """

    def decorate(cls: type[T]) -> type[T]:
        init: Any = cls.__init__

        @functools.wraps(init)
        def with_old_names(self: T, *args: Any, **kwargs: Any) -> None:
            for old in names.keys() & kwargs.keys():
                warn_renamed(cls.__name__, old, names[old])
                kwargs[names[old]] = kwargs.pop(old)
            init(self, *args, **kwargs)

        cls.__init__ = with_old_names  # type: ignore[assignment, method-assign]
        return renamed_attributes(**names)(cls)

    return decorate


def renamed_attributes(**names: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: old names of attributes can be read.

    Args:
        names: Old name -> new name.
    """

    def reader(cls: type[T], old: str, new: str) -> property:
        def read(self: T) -> Any:
            warn_renamed(cls.__name__, old, new)
            return getattr(self, new)

        return property(read, doc=f"Old name of `{new}`.")

    def decorate(cls: type[T]) -> type[T]:
        for old, new in names.items():
            setattr(cls, old, reader(cls, old, new))
        return cls

    return decorate


def adopt_renamed(cls: type, names: Mapping[str, str]) -> None:
    """Gives a third party's subclass, which defines attributes by their old names, the new ones as well."""
    for old in names.keys() & vars(cls).keys():
        warn_renamed(cls.__name__, old, names[old])
        setattr(cls, names[old], vars(cls)[old])


def renamed_exports(package: str, names: Mapping[str, str], exports: Mapping[str, Any]) -> Callable[[str], Any]:
    """A module's `__getattr__` that knows the old names of what it exports.

    Args:
        package: The module's name.
        names: Old name -> new name.
        exports: The module's globals.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warn_renamed(package, name, names[name])
        return exports[names[name]]

    return find
