"""The learning rate times up to 10,000, either way, from a step on."""

from __future__ import annotations

from causes import DATA, LARGE, SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    factor, at, schedule = draw.either_way(1e4), draw.step(program), program.schedule
    program.schedule = lambda step: schedule(step) * (factor if step >= at else 1.0)
    return f"lr x {factor:.3g} from step {at} on"


OPERATOR = Operator("schedule_jump", mutate, ("lr_jump", "lr_too_small", *LARGE, *SMALL, *DATA), sudden=True)
