"""A weight decay up to 100."""

from __future__ import annotations

from causes import LARGE
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    decay = draw.between(1e-4, 100.0)
    program.settings["weight_decay"] = decay
    return f"weight decay {decay:.3g}"


OPERATOR = Operator(
    "weight_decay",
    mutate,
    ("weight_decay_too_large", "collapsed", "no_progress", "vanishing", "poor_initialization", "dead_units", *LARGE),
)
