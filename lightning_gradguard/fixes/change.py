"""What a fix changed, layer by layer, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One thing that a fix changed.

    Args:
        layer: Dotted name of the module, or what else was changed: `"param_groups.0"`, `"loader"`.
        before: Its state before the change, for people to read.
        after: Its state after the change.

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
    """A fix found nothing to change. The message says what it looked for."""


def recorded(changes: Iterable[Change], call: str, looked_for: str) -> Changes:
    """The changes as a tuple.

    Args:
        changes: What was changed.
        call: The fix and its arguments, for the message.
        looked_for: What it looked for, for the message.

    Raises:
        NothingToChange: If there are no changes.

    Example:
        >>> recorded([], "add_layer_norm(model)", "a layer")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lightning_gradguard.fixes.change.NothingToChange: `add_layer_norm(model)` changed nothing...
    """
    done = tuple(changes)
    if not done:
        raise NothingToChange(f"`{call}` changed nothing: it looked for {looked_for} and found none.")
    return done
