"""ReLU in the place of every activation."""

from __future__ import annotations

from causes import INIT
from edits import ACTIVATIONS, replace_all
from mutant import Draw, Operator, Program
from torch import nn


def mutate(program: Program, draw: Draw) -> str | None:
    count = replace_all(program.net, tuple(a for a in ACTIVATIONS if a is not nn.ReLU), nn.ReLU)
    return f"{count} activations are ReLU" if count else None


OPERATOR = Operator("activation_relu", mutate, ("unsuited_activation", *INIT))
