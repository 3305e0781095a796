"""Gradients times up to 1e6, either way, for a few steps in a row."""

from __future__ import annotations

from causes import DATA
from chaos_faults import Fault
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    factor, steps = draw.either_way(1e6), draw.steps(program)
    program.fault = Fault(steps, gradients=lambda grads: [g.mul_(factor) for g in grads])
    return f"gradients x {factor:.3g} at steps {steps[0]}-{steps[-1]}"


OPERATOR = Operator("gradients_times", mutate, DATA, sudden=True)
