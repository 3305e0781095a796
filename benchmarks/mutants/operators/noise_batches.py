"""Noise in the place of a few batches in a row."""

from __future__ import annotations

from causes import DATA
from chaos_faults import Fault
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    scale, steps = draw.between(0.3, 30), draw.steps(program)
    if not program.recipe.trained_inputs:
        return None
    program.fault = Fault(steps, batch=lambda x, y: x.normal_().mul_(scale))
    return f"noise x {scale:.3g} at steps {steps[0]}-{steps[-1]}"


OPERATOR = Operator("noise_batches", mutate, DATA, sudden=True)
