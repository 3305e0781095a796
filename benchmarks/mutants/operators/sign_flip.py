"""Gradients with the wrong sign for a few steps in a row."""

from __future__ import annotations

from causes import DATA
from chaos_faults import Fault
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    steps = draw.steps(program)
    program.fault = Fault(steps, gradients=lambda grads: [g.neg_() for g in grads])
    return f"gradients x -1 at steps {steps[0]}-{steps[-1]}"


OPERATOR = Operator("sign_flip", mutate, DATA, sudden=True)
