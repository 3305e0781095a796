"""What a fix did, layer by layer, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One thing that a fix changed.

    Args:
        layer: Dotted name of the module, or what else was changed: `"param_groups.0"`, `"loader"`.
        before: How it was, in words and numbers.
        after: How it is now.

    Example:
        >>> print(Change("net.1", "Sigmoid", "ELU"))
        net.1: Sigmoid -> ELU
    """

    layer: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.before} -> {self.after}"


Changes = tuple[Change, ...]


class NothingToChange(ValueError):
    """A fix found nothing to work on; the message says what it looked for."""


def recorded(changes: Iterable[Change], call: str, looked_for: str) -> Changes:
    """The changes as a tuple; a fix that changed nothing is an error.

    Example:
        >>> recorded([], "add_layer_norm(model)", "a layer")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lightning_gradguard.fixes.change.NothingToChange: `add_layer_norm(model)` changed nothing...
    """
    done = tuple(changes)
    if not done:
        raise NothingToChange(f"`{call}` changed nothing: it looked for {looked_for} and found none.")
    return done
