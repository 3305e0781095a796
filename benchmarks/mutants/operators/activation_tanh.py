"""Tanh in the place of every activation."""

from __future__ import annotations

from causes import INIT
from edits import ACTIVATIONS, replace_all
from mutant import Draw, Operator, Program
from torch import nn


def mutate(program: Program, draw: Draw) -> str | None:
    count = replace_all(program.net, tuple(a for a in ACTIVATIONS if a is not nn.Tanh), nn.Tanh)
    return f"{count} activations are Tanh" if count else None


OPERATOR = Operator("activation_tanh", mutate, ("unsuited_activation", *INIT))
