"""Every normalization removed."""

from __future__ import annotations

from causes import INIT, LARGE
from edits import NORMS, replace_all
from mutant import Draw, Operator, Program
from torch import nn


def mutate(program: Program, draw: Draw) -> str | None:
    count = replace_all(program.net, NORMS, nn.Identity)
    return f"{count} norms removed" if count else None


OPERATOR = Operator("no_norms", mutate, INIT + LARGE)
