"""Detectors, remedies, fixes and zoo cases of other distributions, found by entry point."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

#: Group -> its name before 0.2, still read for one release.
DEPRECATED_GROUPS = {"gradguard.fixes": "lightning_gradguard.fixes", "gradguard.zoo": "lightning_gradguard.zoo"}


class Plugin(NamedTuple):
    """What a distribution offers under one entry point.

    Args:
        distribution: Name of the distribution, e.g. `"my-package"`.
        offer: The detector, remedy, fix or case.
    """

    distribution: str
    offer: Any


def load_plugins(
    group: str, accept: Callable[[str, Any], tuple[str, Any]], taken: Container[str] = ()
) -> dict[str, Plugin]:
    """What installed distributions offer under an entry-point group, by name, sorted by the names of the entry points.

    An entry point that cannot be loaded, that `accept` refuses, or whose name is taken is left out with a warning.

    Args:
        group: `"gradguard.detectors"`, `"gradguard.remedies"`, `"gradguard.fixes"` or `"gradguard.zoo"`.
        accept: Takes the name of an entry point and the loaded object. Returns the name under which it joins and what
            is joined, or raises `TypeError` with the reason why it cannot.
        taken: Names that are not available, e.g. those of this package.

    Example:
        >>> load_plugins("gradguard.nothing", lambda name, loaded: (name, loaded))
        {}
    """
    found: dict[str, Plugin] = {}
    for point in _entry_points(group):
        distribution = point.dist.name if point.dist else "an unknown distribution"
        try:
            name, offer = accept(point.name, point.load())
            if name in found or name in taken:
                raise TypeError(f"the name {name!r} is taken")
        except Exception as error:
            reason = str(error) if type(error) is TypeError else f"{type(error).__name__}: {error}"
            place = f"The entry point {point.name!r} of {distribution} ({point.group}: {point.value})"
            warnings.warn(f"{place} is left out: {reason}.", stacklevel=3)
        else:
            found[name] = Plugin(distribution, offer)
    return found


def _entry_points(group: str) -> Iterator[EntryPoint]:
    points = sorted(entry_points(group=group), key=lambda point: point.name)
    yield from points
    known = {(point.name, point.value) for point in points}  # a distribution may support both names of a group
    if old := DEPRECATED_GROUPS.get(group):
        for point in sorted(entry_points(group=old), key=lambda point: point.name):
            if (point.name, point.value) not in known:
                distribution = point.dist.name if point.dist else "an unknown distribution"
                warnings.warn(
                    f"The entry-point group {old!r} of {distribution} is deprecated: use {group!r}.",
                    DeprecationWarning,
                    stacklevel=4,
                )
                yield point
