"""Samples in the order of their targets, never shuffled."""

from __future__ import annotations

from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    if program.recipe.regression or program.train[-1].ndim > 1:
        return None
    order = program.train[-1].argsort()
    program.train = tuple(t[order] for t in program.train)
    program.shuffle = False
    return "sorted by class"


OPERATOR = Operator("not_shuffled", mutate, ("constant_target", "oscillating", "no_progress", "diverging"))
