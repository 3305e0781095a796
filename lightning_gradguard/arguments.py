"""What the user hands in, held against its rule: the one form of configuration error, and parts that fail later."""

from __future__ import annotations

import math
import warnings


def require(condition: bool, call: str, rule: str, value: object) -> None:
    """Raises unless `condition` holds; the message quotes the call, the rule and the value.

    Raises:
        ValueError: If it does not.

    Example:
        >>> require(False, "Exploding(factor=...)", "must be above 1", 0.5)
        Traceback (most recent call last):
        ValueError: `Exploding(factor=...)` must be above 1, got 0.5.
    """
    if not condition:
        raise ValueError(f"`{call}` {rule}, got {value!r}.")


def require_number(
    call: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    whole: bool = False,
) -> None:
    """Raises unless `value` is a finite number within the bounds; text, None, bool and NaN are none.

    Args:
        call: How the argument is given, e.g. `"ZClip(decay=...)"`.
        value: What was given.
        above: Exclusive lower bound.
        at_least: Inclusive lower bound.
        below: Exclusive upper bound.
        at_most: Inclusive upper bound.
        whole: Whether only an int will do.

    Raises:
        ValueError: If it is not.

    Example:
        >>> require_number("ZClip(decay=...)", 2.0, above=0, below=1)
        Traceback (most recent call last):
        ValueError: `ZClip(decay=...)` must be a number above 0 and below 1, got 2.0.
        >>> require_number("GradGuard(sample_every=...)", True, at_least=1, whole=True)
        Traceback (most recent call last):
        ValueError: `GradGuard(sample_every=...)` must be a whole number of at least 1, got True.
    """
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if number and math.isfinite(value) and value > above and at_least <= value <= at_most and value < below:  # type: ignore[operator, arg-type]
        return
    bounds = {"above": above, "of at least": at_least, "below": below, "of at most": at_most}
    words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))
    require(False, call, f"must be a {'whole ' * whole}number {words}".rstrip(), value)


def warn_switched_off(what: str, part: object, error: Exception) -> None:
    """Warns that a detector, remedy or clipping has raised and is not asked any more in this run."""
    warnings.warn(
        f"GradGuard switches the {what} {part!r} off for the rest of this run, which goes on: it raised "
        f"{type(error).__name__}: {error}",
        stacklevel=3,
    )
