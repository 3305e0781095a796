"""Third-party fixes and zoo cases, by entry point."""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points
from typing import Any


def load_plugins(group: str) -> dict[str, Any]:
    """Every object that installed distributions offer under an entry-point group, by name.

    A plug-in that cannot be loaded is reported by name in a warning and left out.

    Args:
        group: `"lightning_gradguard.zoo"` or `"lightning_gradguard.fixes"`.

    Example:
        >>> load_plugins("lightning_gradguard.nothing")
        {}
    """
    loaded = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            loaded[point.name] = point.load()
        except Exception as error:
            dist = point.dist.name if point.dist else "an unknown distribution"
            warnings.warn(
                f"the plug-in {point.name!r} of {dist} ({group}: {point.value}) cannot be loaded and is left out: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
    return loaded
