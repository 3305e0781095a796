"""Inputs of a few batches in a row times up to 1e6."""

from __future__ import annotations

from causes import DATA
from chaos_faults import Fault
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    factor, steps = draw.between(10, 1e6), draw.steps(program)
    if not program.recipe.trained_inputs:
        return None
    program.fault = Fault(steps, batch=lambda x, y: x.mul_(factor))
    return f"batches x {factor:.3g} at steps {steps[0]}-{steps[-1]}"


OPERATOR = Operator("batches_times", mutate, DATA, sudden=True)
