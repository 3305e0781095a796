"""The optimizer's moments times up to 1e6, either way, at one step."""

from __future__ import annotations

from typing import Any

from causes import DATA
from chaos_faults import Fault
from mutant import Draw, Operator, Program
from torch import Tensor


def mutate(program: Program, draw: Draw) -> str | None:
    factor, step = draw.either_way(1e6), draw.step(program)

    def hit(module: Any, step: int) -> None:
        for state in module.optimizers().optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor) and value.ndim:
                    value.mul_(factor)

    program.fault = Fault([step], state=hit)
    return f"moments x {factor:.3g} at step {step}"


OPERATOR = Operator("moments_hit", mutate, (*DATA, "overshooting", "stalled"), sudden=True)
