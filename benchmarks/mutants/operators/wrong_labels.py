"""Shuffled targets for a few batches in a row."""

from __future__ import annotations

from causes import DATA
from chaos_faults import Fault
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    steps = draw.steps(program)
    program.fault = Fault(steps, batch=lambda x, y: y.copy_(y.roll(1 + len(y) // 3, 0)))
    return f"wrong targets at steps {steps[0]}-{steps[-1]}"


OPERATOR = Operator("wrong_labels", mutate, DATA, sudden=True)
