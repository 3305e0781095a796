"""NaN in a few batches in a row."""

from __future__ import annotations

from causes import DATA
from chaos_faults import Fault
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    steps = draw.steps(program)
    if not program.recipe.trained_inputs:
        return None
    program.fault = Fault(steps, batch=lambda x, y: x.fill_(float("nan")))
    return f"NaN at steps {steps[0]}-{steps[-1]}"


OPERATOR = Operator("nan_batches", mutate, DATA, sudden=True)
